"""What every ``Outbox`` promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.tenants import later, new_organization, new_token, settle_in
from ibex.adapters.memory.identity import InMemoryIdentity
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.outbox import PostgresOutbox
from ibex.adapters.postgres.roles import AUTH_ROLE
from ibex.domain.freshness import Kind
from ibex.domain.identity import AgentStatus
from ibex.domain.manage_identity import OrganizationStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from ibex.domain.announce import Change, Outbox
    from ibex.domain.manage_identity import IdentityStore, NamedAgent

    Stores = tuple[IdentityStore, Outbox]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """An empty identity store, and the outbox that its changes are in."""
    if request.param == "memory":
        identity = InMemoryIdentity()
        yield identity, identity.outbox
        return
    database = Database(request.getfixturevalue("postgres").auth_url, AUTH_ROLE)
    await database.open()
    yield PostgresIdentity(database), PostgresOutbox(database)
    await database.close()


def told(changes: Sequence[Change]) -> list[tuple[UUID, Kind, UUID | None]]:
    """Return what changes say, without their ids, which must be ordered."""
    ids = [change.id for change in changes]
    assert ids == sorted(set(ids))
    return [(change.org_id, change.kind, change.new_token) for change in changes]


async def settled(stores: Stores) -> NamedAgent:
    """Return an agent of a new organization, whose creation is announced."""
    identity, outbox = stores
    agent = await settle_in(identity)
    (change,) = await outbox.pending(10)
    assert (change.org_id, change.kind, change.new_token) == (agent.org_id, Kind.AGENTS, None)
    await outbox.forget([change.id])
    return agent


async def test_nothing_changed_is_nothing_pending(stores: Stores) -> None:
    """A new organization is not: nobody remembers anything of it."""
    identity, outbox = stores
    await identity.add_organization(new_organization())
    assert list(await outbox.pending(10)) == []
    assert list(await outbox.live_tokens()) == []


async def test_changes_are_pending_in_their_order(stores: Stores) -> None:
    """With organization and kind, and with the token where one was created."""
    identity, outbox = stores
    agent = await settled(stores)
    token = new_token(agent.org_id)
    await identity.add_token(token)
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    await identity.revoke_token(agent.org_id, token.id, later())
    await identity.set_organization_status(agent.org_id, OrganizationStatus.SUSPENDED)
    assert told(await outbox.pending(10)) == [
        (agent.org_id, Kind.TOKENS, token.id),
        (agent.org_id, Kind.AGENTS, None),
        (agent.org_id, Kind.TOKENS, None),
        (agent.org_id, Kind.TOKENS, None),
    ]


async def test_looking_takes_nothing_away(stores: Stores) -> None:
    """Two replicas see the same until one of them says that it is announced."""
    identity, outbox = stores
    agent = await settled(stores)
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    first = await outbox.pending(10)
    assert len(first) == 1
    assert await outbox.pending(10) == first


async def test_no_more_than_asked_for_and_the_oldest_of_them(stores: Stores) -> None:
    """The rest comes when those are forgotten."""
    identity, outbox = stores
    agents = [await settled(stores) for _ in range(5)]
    for agent in agents:
        await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    some = await outbox.pending(2)
    assert [change.org_id for change in some] == [agent.org_id for agent in agents[:2]]
    await outbox.forget([change.id for change in some])
    assert [change.org_id for change in await outbox.pending(10)] == [agent.org_id for agent in agents[2:]]


async def test_forgetting_again_is_no_error(stores: Stores) -> None:
    """Nor is forgetting nothing, nor what never was."""
    identity, outbox = stores
    agent = await settled(stores)
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    (change,) = await outbox.pending(10)
    for ids in ([], [change.id], [change.id], [change.id, 1_000_000]):
        await outbox.forget(ids)
    assert list(await outbox.pending(10)) == []


async def test_live_tokens_are_all_that_are_not_revoked(stores: Stores) -> None:
    """Of every organization; expired ones and those of a suspended one too, which may be back."""
    identity, outbox = stores
    one, other = await settle_in(identity), await settle_in(identity)
    live = [new_token(one.org_id), new_token(other.org_id), new_token(one.org_id, expires_at=later())]
    revoked = new_token(one.org_id)
    for token in (*live, revoked):
        await identity.add_token(token)
    await identity.revoke_token(one.org_id, revoked.id, later())
    await identity.set_organization_status(other.org_id, OrganizationStatus.SUSPENDED)
    assert sorted(await outbox.live_tokens()) == sorted(token.id for token in live)
