"""Every change that makes cached entries doubtful leaves a row in the outbox, in its own transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from harness.tenants import later, new_agent, new_draft, new_token, settle_in
from harness.turns import new_turn
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.outbox import PostgresOutbox
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.announce import OutboxUnavailableError
from ibex.domain.errors import NotFoundError
from ibex.domain.freshness import Kind
from ibex.domain.identity import AgentStatus
from ibex.domain.manage_identity import OrganizationStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from harness.postgres import PostgresDatabase
    from ibex.domain.manage_identity import NamedAgent

pytestmark = pytest.mark.integration


@pytest.fixture
async def identity(postgres: PostgresDatabase) -> AsyncIterator[PostgresIdentity]:
    """The identity store."""
    database = Database(postgres.auth_url, AUTH_ROLE)
    await database.open()
    yield PostgresIdentity(database)
    await database.close()


@pytest.fixture
async def outbox(postgres: PostgresDatabase) -> AsyncIterator[PostgresOutbox]:
    """The outbox as auth sees it."""
    database = Database(postgres.auth_url, AUTH_ROLE)
    await database.open()
    yield PostgresOutbox(database)
    await database.close()


@pytest.fixture
async def app(postgres: PostgresDatabase) -> AsyncIterator[Database]:
    """The database as the proxy sees it."""
    database = Database(postgres.app_url, APP_ROLE)
    await database.open()
    yield database
    await database.close()


def _take(database: PostgresDatabase) -> list[tuple[UUID, str]]:
    """Empty the outbox, as auth does, and return what was in it."""
    return [(org_id, kind) for org_id, kind, _ in _take_all(database)]


def _take_all(database: PostgresDatabase) -> list[tuple[UUID, str, UUID | None]]:
    with psycopg.connect(database.auth_url) as connection:
        rows = connection.execute("DELETE FROM outbox RETURNING id, org_id, kind, new_token").fetchall()
    return [(org_id, kind, new_token) for _, org_id, kind, new_token in sorted(rows)]


async def _settled(database: PostgresDatabase, identity: PostgresIdentity) -> NamedAgent:
    """Return an agent of a new organization, whose creation was noted and is announced."""
    agent = await settle_in(identity)
    assert _take(database) == [(agent.org_id, "agents")]
    return agent


async def test_changes_of_identity_are_noted(postgres: PostgresDatabase, identity: PostgresIdentity) -> None:
    """Creation, revocation and an organization's status concern tokens, an agent's status concerns agents."""
    agent = await _settled(postgres, identity)
    token = new_token((await _settled(postgres, identity)).org_id)
    await identity.add_token(token)
    assert _take_all(postgres) == [(token.org_id, "tokens", token.id)]
    await identity.revoke_token(token.org_id, token.id, later())
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    await identity.set_organization_status(agent.org_id, OrganizationStatus.SUSPENDED)
    assert _take(postgres) == [(token.org_id, "tokens"), (agent.org_id, "agents"), (agent.org_id, "tokens")]


async def test_changes_of_directives_are_noted(
    postgres: PostgresDatabase, identity: PostgresIdentity, app: Database
) -> None:
    """The first version (*none* is cached too), every further one, a rollback, a deactivation."""
    agent, store = await _settled(postgres, identity), PostgresDirectives(app)
    of = (agent.org_id, agent.id)
    for change in (
        store.add_version(*of, new_draft(), None),
        store.add_version(*of, new_draft(), None),
        store.activate(*of, 1),
        store.deactivate(*of),
    ):
        await change
        assert _take(postgres) == [(agent.org_id, "directives")]


async def test_what_changes_nothing_is_not_noted(
    postgres: PostgresDatabase, identity: PostgresIdentity, app: Database
) -> None:
    """A change that found nothing to change, or failed, leaves no row: both are one transaction."""
    agent, store = await _settled(postgres, identity), PostgresDirectives(app)
    await identity.revoke_token(agent.org_id, uuid4(), later())
    await store.activate(agent.org_id, agent.id, 7)
    await store.add_version(agent.org_id, new_agent(agent.org_id).id, new_draft(), None)
    await PostgresSessions(app).append([new_turn(agent)])
    assert _take(postgres) == []


async def test_a_temporary_table_does_not_swallow_a_note(
    postgres: PostgresDatabase, identity: PostgresIdentity
) -> None:
    """The trigger names its schema, so nobody can put another outbox before it."""
    agent = await _settled(postgres, identity)
    with psycopg.connect(postgres.auth_url) as connection:
        connection.execute("CREATE TEMP TABLE outbox (org_id uuid, kind text)")
        connection.execute("UPDATE agents SET status = 'archived' WHERE id = %s", [agent.id])
    assert _take(postgres) == [(agent.org_id, "agents")]


async def test_only_a_creation_has_a_new_token(postgres: PostgresDatabase, identity: PostgresIdentity) -> None:
    """A token that could not be stored leaves no row, and revoking names none."""
    agent = await _settled(postgres, identity)
    token = new_token(agent.org_id)
    with pytest.raises(NotFoundError):
        await identity.add_token(new_token(agent.org_id, agent_id=uuid4()))
    await identity.add_token(token)
    await identity.revoke_token(agent.org_id, token.id, later())
    assert _take_all(postgres) == [(agent.org_id, "tokens", token.id), (agent.org_id, "tokens", None)]


async def test_a_row_that_another_is_announcing_is_seen_all_the_same(
    postgres: PostgresDatabase, identity: PostgresIdentity, outbox: PostgresOutbox
) -> None:
    """Until it is gone: who passes over what is locked would vouch for what is not announced yet."""
    agent = await _settled(postgres, identity)
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    with psycopg.connect(postgres.auth_url) as another:
        another.execute("DELETE FROM outbox")
        (change,) = await outbox.pending(10)
        assert (change.org_id, change.kind) == (agent.org_id, Kind.AGENTS)


async def test_an_uncommitted_change_is_not_pending(
    postgres: PostgresDatabase, identity: PostgresIdentity, outbox: PostgresOutbox
) -> None:
    """And comes at its commit, though later ones were announced before."""
    agent = await _settled(postgres, identity)
    with psycopg.connect(postgres.auth_url) as slow:
        slow.execute("UPDATE agents SET status = 'archived' WHERE id = %s", [agent.id])
        await identity.set_organization_status(agent.org_id, OrganizationStatus.SUSPENDED)
        (second,) = await outbox.pending(10)
        await outbox.forget([second.id])
    (first,) = await outbox.pending(10)
    assert (first.kind, first.id < second.id) == (Kind.AGENTS, True)


async def test_a_server_that_is_down_is_an_outbox_out_of_reach(
    postgres: PostgresDatabase, identity: PostgresIdentity, outbox: PostgresOutbox
) -> None:
    """For each method; and it is reached again when the server is back."""
    agent = await _settled(postgres, identity)
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    postgres.server.stop()
    asked = (outbox.pending(10), outbox.forget([1]), outbox.live_tokens())
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OutboxUnavailableError] * 3
    postgres.server.start()
    assert len(await outbox.pending(10)) == 1
