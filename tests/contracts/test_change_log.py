"""The contract of ``ChangeLog`` and ``LiveTokens``."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.memory.identity import InMemoryIdentity
from harness.tenants import attach, later, new_agent, new_organization, new_token
from ibex.adapters.postgres.change_log import PostgresChangeLog
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import AUTH_ROLE
from ibex.domain.freshness.change_log import Change
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.management import OrganizationStatus
from ibex.domain.identity.model import AgentStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from ibex.domain.freshness.change_log import ChangeLog
    from ibex.domain.freshness.token_filter import LiveTokens
    from ibex.domain.identity.management import IdentityStore

    Stores = tuple[IdentityStore, ChangeLog, LiveTokens]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """An empty identity store, the log of its changes, and its live tokens."""
    if request.param == "memory":
        identity = InMemoryIdentity()
        yield identity, identity.change_log, identity
        return
    database = Database(request.getfixturevalue("postgres").auth_url, AUTH_ROLE)
    await database.open()
    log = PostgresChangeLog(database, timeout_s=30)
    yield PostgresIdentity(database), log, log
    await database.close()


async def test_the_first_read_returns_a_position_without_changes(stores: Stores) -> None:
    """A reader without a position cannot have missed a change."""
    _, log, _ = stores
    assert (await log.read(None)).changes is None


async def test_a_read_returns_no_changes_if_nothing_changed(stores: Stores) -> None:
    """The position may advance nevertheless, and a reader can resume from the new one."""
    _, log, _ = stores
    first = await log.read(None)
    second = await log.read(first.position)
    third = await log.read(second.position)
    assert second.changes is not None
    assert third.changes is not None
    assert (list(second.changes), list(third.changes)) == ([], [])


async def test_every_change_is_read(stores: Stores) -> None:
    """A change has its organization and kind, and the token if the change made one live.

    Equal changes may be merged.
    """
    identity, log, _ = stores
    agent = await attach(identity)
    position = (await log.read(None)).position
    token = new_token(agent.org_id)
    await identity.add_token(token)
    await identity.revoke_token(agent.org_id, token.id, later())
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    await identity.set_organization_status(agent.org_id, OrganizationStatus.SUSPENDED)
    await identity.set_organization_rate_limit(agent.org_id, 5)
    await identity.add_agent(new_agent(agent.org_id, name="another"))
    read = await log.read(position)
    assert read.changes is not None
    assert set(read.changes) == {
        Change(agent.org_id, Kind.TOKENS, token.id),
        Change(agent.org_id, Kind.TOKENS),
        Change(agent.org_id, Kind.AGENTS),
    }
    again = await log.read(read.position)
    assert again.changes is not None
    assert list(again.changes) == []


async def test_several_readers_read_the_same_change(stores: Stores) -> None:
    """Reading a change does not remove it."""
    identity, log, _ = stores
    agent = await attach(identity)
    position = (await log.read(None)).position
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    for _ in range(3):
        read = await log.read(position)
        assert list(read.changes or []) == [Change(agent.org_id, Kind.AGENTS)]


async def test_live_tokens_are_returned_in_pages(stores: Stores) -> None:
    """Each live token is returned once, ordered by id. Revoked tokens are not returned."""
    identity, _, tokens = stores
    agent = await attach(identity)
    other = new_organization(name="other")
    await identity.add_organization(other)
    made = [new_token(org_id) for org_id in (agent.org_id, other.id) for _ in range(4)]
    for token in made:
        await identity.add_token(token)
    await identity.revoke_token(agent.org_id, made[0].id, later())
    assert await tokens.count() == 7
    found: list[UUID] = []
    after: UUID | None = None
    while True:
        page = await tokens.page(after, 3)
        found += page.token_ids
        after = page.next_after
        if after is None:
            break
    assert found == sorted(token.id for token in made[1:])


async def test_the_page_is_empty_without_tokens(stores: Stores) -> None:
    """The empty page is also the last one."""
    _, _, tokens = stores
    page = await tokens.page(None, 10)
    assert (list(page.token_ids), page.next_after) == ([], None)
    assert await tokens.count() == 0
    assert (await tokens.page(uuid4(), 10)).next_after is None
