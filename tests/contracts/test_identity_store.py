"""The contract of ``IdentityStore``."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from harness.memory.identity import InMemoryIdentity
from harness.tenants import MIDNIGHT, attach, later, new_agent, new_organization, new_token, new_user
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import AUTH_ROLE
from ibex.domain.errors import NotFoundError
from ibex.domain.identity.management import AlreadyExistsError, OrganizationStatus, TokenPosition
from ibex.domain.identity.model import Agent, AgentStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.identity.management import IdentityStore


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[IdentityStore]:
    """An empty store."""
    if request.param == "memory":
        yield InMemoryIdentity()
        return
    database = Database(request.getfixturevalue("postgres").auth_url, AUTH_ROLE)
    await database.open()
    yield PostgresIdentity(database)
    await database.close()


async def test_a_token_is_found_with_its_organization(store: IdentityStore) -> None:
    """The stored values are equal, including microseconds and time zone."""
    organization = new_organization(rate_limit_rpm=60)
    await store.add_organization(organization)
    user, agent = new_user(organization.id), new_agent(organization.id)
    await store.add_user(user)
    await store.add_agent(agent)
    token = new_token(
        organization.id, user_id=user.id, agent_id=agent.id, expires_at=MIDNIGHT + timedelta(days=1, microseconds=7)
    )
    await store.add_token(token)
    assert await store.find_token(token.id) == (token, organization)


async def test_an_unknown_token_returns_none(store: IdentityStore) -> None:
    """Other tokens exist."""
    agent = await attach(store)
    await store.add_token(new_token(agent.org_id))
    assert await store.find_token(uuid4()) is None


async def test_an_agent_is_found_by_its_own_organization_only(store: IdentityStore) -> None:
    """Another organization's agent is treated as an unknown agent."""
    ours, theirs = await attach(store), await attach(store)
    assert await store.find_agent(ours.org_id, ours.id) == Agent(ours.id, ours.org_id, AgentStatus.ACTIVE)
    assert await store.find_agent(ours.org_id, theirs.id) is None
    assert await store.find_agent(ours.org_id, uuid4()) is None


async def test_a_taken_organization_name_is_refused(store: IdentityStore) -> None:
    """The second organization of a name raises ``AlreadyExistsError``, and the first one stays."""
    first = new_organization("acme")
    await store.add_organization(first)
    with pytest.raises(AlreadyExistsError):
        await store.add_organization(new_organization("acme"))
    assert await store.organizations() == [first]


async def test_organizations_are_listed_oldest_first(store: IdentityStore) -> None:
    """The order is that of creation, not of insertion."""
    older, newer = new_organization(), new_organization(rate_limit_rpm=0)
    await store.add_organization(newer)
    await store.add_organization(older)
    assert await store.organizations() == [older, newer]


async def test_an_organization_can_be_suspended(store: IdentityStore) -> None:
    """The list and its tokens have the new status. An unknown organization returns False."""
    agent = await attach(store)
    token = new_token(agent.org_id)
    await store.add_token(token)
    assert await store.set_organization_status(agent.org_id, OrganizationStatus.SUSPENDED)
    assert not await store.set_organization_status(uuid4(), OrganizationStatus.SUSPENDED)
    assert [o.status for o in await store.organizations()] == [OrganizationStatus.SUSPENDED]
    found = await store.find_token(token.id)
    assert found is not None
    assert found[1].status is OrganizationStatus.SUSPENDED


@pytest.mark.parametrize("limit", [None, 0, 2_147_483_647])
async def test_the_rate_limit_of_an_organization_can_be_set(store: IdentityStore, limit: int | None) -> None:
    """The list and its tokens have the new limit. An unknown organization returns False, and others keep theirs."""
    agent, other = await attach(store), new_organization(rate_limit_rpm=7)
    await store.add_organization(other)
    token = new_token(agent.org_id)
    await store.add_token(token)
    for new in (60, limit):
        assert await store.set_organization_rate_limit(agent.org_id, new)
    assert not await store.set_organization_rate_limit(uuid4(), limit)
    assert {o.id: o.rate_limit_rpm for o in await store.organizations()} == {agent.org_id: limit, other.id: 7}
    found = await store.find_token(token.id)
    assert found is not None
    assert found[1].rate_limit_rpm == limit


async def test_an_email_address_is_unique_within_its_organization(store: IdentityStore) -> None:
    """Users of two organizations may have the same address."""
    ours, theirs = await attach(store), await attach(store)
    await store.add_user(new_user(ours.org_id, "ada@example.com"))
    await store.add_user(new_user(theirs.org_id, "ada@example.com"))
    with pytest.raises(AlreadyExistsError):
        await store.add_user(new_user(ours.org_id, "ada@example.com"))


async def test_an_agent_name_is_unique_within_its_organization(store: IdentityStore) -> None:
    """Agents of two organizations may have the same name."""
    ours, theirs = await attach(store), await attach(store)
    await store.add_agent(new_agent(ours.org_id, "writer"))
    await store.add_agent(new_agent(theirs.org_id, "writer"))
    with pytest.raises(AlreadyExistsError):
        await store.add_agent(new_agent(ours.org_id, "writer"))


async def test_agents_are_listed_oldest_first_for_one_organization(store: IdentityStore) -> None:
    """Only the organization's own are listed, in the order of their creation."""
    first, theirs = await attach(store), await attach(store)
    third, second = replace(new_agent(first.org_id), created_at=later() + timedelta(hours=1)), new_agent(first.org_id)
    await store.add_agent(third)
    await store.add_agent(second)
    assert await store.agents(first.org_id) == [first, second, third]
    assert await store.agents(theirs.org_id) == [theirs]
    assert await store.agents(uuid4()) == []


@pytest.mark.parametrize("status", AgentStatus)
async def test_the_status_of_an_agent_can_be_set(store: IdentityStore, status: AgentStatus) -> None:
    """Only its own organization can set it, to any status."""
    ours, theirs = await attach(store), await attach(store)
    assert await store.set_agent_status(ours.org_id, ours.id, status)
    assert not await store.set_agent_status(ours.org_id, theirs.id, AgentStatus.ARCHIVED)
    assert not await store.set_agent_status(ours.org_id, uuid4(), status)
    assert await store.find_agent(ours.org_id, ours.id) == Agent(ours.id, ours.org_id, status)
    assert await store.find_agent(theirs.org_id, theirs.id) == Agent(theirs.id, theirs.org_id, AgentStatus.ACTIVE)


async def test_a_token_for_a_foreign_agent_or_user_is_refused(store: IdentityStore) -> None:
    """The store checks ownership: it does not find the agents and users of another organization."""
    ours, theirs = await attach(store), await attach(store)
    their_user = new_user(theirs.org_id)
    await store.add_user(their_user)
    for foreign in (
        new_token(ours.org_id, agent_id=theirs.id),
        new_token(ours.org_id, agent_id=uuid4()),
        new_token(ours.org_id, user_id=their_user.id),
    ):
        with pytest.raises(NotFoundError):
            await store.add_token(foreign)
    assert await store.tokens(ours.org_id) == []


async def test_adding_to_an_unknown_organization_raises(store: IdentityStore) -> None:
    """A user, agent or token raises ``NotFoundError``."""
    nobody = uuid4()
    with pytest.raises(NotFoundError):
        await store.add_user(new_user(nobody))
    with pytest.raises(NotFoundError):
        await store.add_agent(new_agent(nobody))
    with pytest.raises(NotFoundError):
        await store.add_token(new_token(nobody))


async def test_tokens_are_listed_oldest_first_for_one_organization(store: IdentityStore) -> None:
    """The list contains revoked tokens, and no tokens of another organization."""
    ours, theirs = await attach(store), await attach(store)
    first, second = new_token(ours.org_id), new_token(ours.org_id, agent_id=ours.id)
    for token in (second, first, new_token(theirs.org_id)):
        await store.add_token(token)
    now = later()
    await store.revoke_token(ours.org_id, first.id, now)
    assert await store.tokens(ours.org_id) == [replace(first, revoked_at=now), second]


async def test_tokens_are_listed_in_pages(store: IdentityStore) -> None:
    """Each page starts after the last token of the previous page, even among tokens of the same time.

    The last page is empty.
    """
    ours, theirs = await attach(store), await attach(store)
    moment = later()
    same_moment = sorted((replace(new_token(ours.org_id), created_at=moment) for _ in range(4)), key=lambda t: t.id)
    newest = new_token(ours.org_id)
    for token in (newest, *reversed(same_moment), replace(new_token(theirs.org_id), created_at=moment)):
        await store.add_token(token)
    pages = [await store.tokens(ours.org_id, limit=2)]
    while pages[-1]:
        pages.append(await store.tokens(ours.org_id, TokenPosition(pages[-1][-1].created_at, pages[-1][-1].id), 2))
    assert [list(page) for page in pages] == [same_moment[:2], same_moment[2:], [newest], []]


async def test_a_page_can_start_after_a_position_without_a_token(store: IdentityStore) -> None:
    """A position is a place in the order. Without a limit, the page has all remaining tokens."""
    agent = await attach(store)
    first, second, third = (new_token(agent.org_id) for _ in range(3))
    for token in (first, second, third):
        await store.add_token(token)
    assert await store.tokens(agent.org_id, TokenPosition(first.created_at, UUID(int=(1 << 128) - 1))) == [
        second,
        third,
    ]
    assert await store.tokens(agent.org_id, TokenPosition(MIDNIGHT - timedelta(days=1), UUID(int=0)), 1) == [first]


async def test_live_tokens_are_counted_by_their_key(store: IdentityStore) -> None:
    """The counts cover all organizations, without revoked and expired tokens."""
    one, other = new_organization(), new_organization()
    now = datetime.now(UTC)
    for organization in (one, other):
        await store.add_organization(organization)
    assert dict(await store.live_tokens_by_key(now)) == {}
    kept = [new_token(one.id), new_token(other.id), new_token(one.id, expires_at=now + timedelta(seconds=1))]
    gone = [new_token(one.id, expires_at=now), new_token(one.id)]
    for token in (*kept, *gone):
        await store.add_token(token)
    await store.add_token(replace(new_token(other.id), key_id="older"))
    await store.revoke_token(one.id, gone[1].id, now)

    assert dict(await store.live_tokens_by_key(now)) == {"test": 3, "older": 1}


async def test_a_token_is_revoked_once(store: IdentityStore) -> None:
    """Revoking again succeeds and keeps the first time."""
    agent = await attach(store)
    token, now = new_token(agent.org_id), later()
    await store.add_token(token)
    assert await store.revoke_token(agent.org_id, token.id, now)
    assert await store.revoke_token(agent.org_id, token.id, later())
    assert await store.tokens(agent.org_id) == [replace(token, revoked_at=now)]


async def test_another_organization_cannot_revoke_a_token(store: IdentityStore) -> None:
    """A foreign or unknown token returns False, and stays live."""
    ours, theirs = await attach(store), await attach(store)
    token = new_token(theirs.org_id)
    await store.add_token(token)
    assert not await store.revoke_token(ours.org_id, token.id, later())
    assert not await store.revoke_token(ours.org_id, uuid4(), later())
    assert await store.tokens(theirs.org_id) == [token]
