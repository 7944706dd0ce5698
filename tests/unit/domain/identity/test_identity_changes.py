"""The publication of identity changes, and the epochs that verification returns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from harness.memory.epochs import InMemoryEpochs
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from harness.office import GRANT, MISSING, PEPPERS, Office
from ibex.domain.errors import NotFoundError, OutcomeUnknownError
from ibex.domain.freshness.change_log import Change
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.management import ManageIdentity, OrganizationStatus, VerifyAgent, VerifyToken
from ibex.domain.identity.model import AgentStatus, PersonalAccessToken

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.freshness.kinds import Epoch


async def test_each_change_replaces_the_epoch() -> None:
    """A new token replaces none, because no worker can have cached an entry that it changes."""
    office = Office()
    organization, agent = await office.settled()
    other = await office.manage.create_organization("other")

    token = await office.manage.create_token(organization.id, GRANT)
    assert office.epochs.replaced == []

    epochs = [office.epochs.read(organization.id).value]
    for change in (
        office.manage.revoke_token(organization.id, token.token_id),
        office.manage.set_agent_status(organization.id, agent.id, AgentStatus.PAUSED),
        office.manage.set_organization_status(organization.id, OrganizationStatus.SUSPENDED),
        office.manage.set_organization_rate_limit(organization.id, 5),
        office.manage.create_agent(organization.id, "another"),  # its absence may be cached
    ):
        await change
        epochs.append(office.epochs.read(organization.id).value)
    assert len(set(epochs)) == 6
    assert office.epochs.replaced == [organization.id] * 5
    assert office.epochs.read(other.id).value is None


async def test_each_change_is_logged_with_its_kind() -> None:
    """A change of the organization is logged as a change of its tokens. A new token is logged with its id."""
    office = Office()
    organization, agent = await office.settled()
    position = await office.position()

    token = await office.manage.create_token(organization.id, GRANT)
    await office.manage.revoke_token(organization.id, token.token_id)
    await office.manage.set_agent_status(organization.id, agent.id, AgentStatus.PAUSED)
    await office.manage.set_organization_status(organization.id, OrganizationStatus.SUSPENDED)
    await office.manage.set_organization_rate_limit(organization.id, None)

    assert await office.changes_since(position) == [
        Change(organization.id, Kind.TOKENS, token.token_id),
        Change(organization.id, Kind.TOKENS),
        Change(organization.id, Kind.AGENTS),
        Change(organization.id, Kind.TOKENS),
        Change(organization.id, Kind.TOKENS),
    ]


async def test_the_epoch_is_replaced_after_the_commit_and_before_the_change_is_reported() -> None:
    """A request that reads the new epoch sees the change, and a request after the report reads the new epoch."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    seen: list[bool] = []

    async def look(org_id: UUID) -> None:
        seen.extend(t.revoked_at is not None for t in await office.store.tokens(org_id))

    office.epochs.on_replaced = look
    before = office.epochs.read(organization.id)
    await office.manage.revoke_token(organization.id, token.token_id)

    assert seen == [True]
    assert office.epochs.read(organization.id).proves_change_since(before, 0)


async def test_the_epoch_is_read_before_the_value() -> None:
    """A change between the two reads is never hidden: the returned epoch is the older one."""
    office = Office()
    organization, agent = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)

    class Interrupted(InMemoryEpochs):
        async def read_or_create(self, org_id: UUID) -> Epoch:
            read = await super().read_or_create(org_id)
            await self.replace(org_id)  # a change happens between the reads of epoch and value
            return read

    epochs = Interrupted(office.clock, SequentialIds(2))
    of_token = await VerifyToken(office.store, PEPPERS, epochs, office.clock).verify(token)
    assert of_token.epoch.value is not None
    assert epochs.read(organization.id).proves_change_since(of_token.epoch, 0)
    of_agent = await VerifyAgent(office.store, epochs).verify(organization.id, agent.id)
    assert of_agent.epoch.value not in {None, of_token.epoch.value}
    assert epochs.read(organization.id).proves_change_since(of_agent.epoch, 0)


async def test_verification_returns_the_epoch_or_creates_a_missing_one() -> None:
    """While nothing changes, tokens and agents get the same epoch. An unknown token creates none."""
    office = Office()
    organization, agent = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    office.epochs.become({})

    await office.refuses(PersonalAccessToken.issue(MISSING, bytes(32)))
    assert office.epochs.content() == {}

    of_token = await office.verify_token.verify(token)
    of_agent = await office.verify_agent.verify(organization.id, agent.id)
    assert of_token.epoch.value is not None
    assert of_token.epoch.was_read
    assert of_agent.epoch.value == of_token.epoch.value
    assert office.epochs.content() == {organization.id: of_token.epoch.value}


async def test_a_change_of_a_missing_object_replaces_no_epoch() -> None:
    """Nothing has changed."""
    office = Office()
    organization, agent = await office.settled()

    with pytest.raises(NotFoundError):
        await office.manage.revoke_token(organization.id, MISSING)
    with pytest.raises(NotFoundError):
        await office.manage.set_agent_status(MISSING, agent.id, AgentStatus.PAUSED)
    with pytest.raises(NotFoundError):
        await office.manage.set_organization_status(MISSING, OrganizationStatus.SUSPENDED)
    with pytest.raises(NotFoundError):
        await office.manage.set_organization_rate_limit(MISSING, 5)
    with pytest.raises(NotFoundError):
        await office.manage.create_token(MISSING, GRANT)

    assert office.epochs.replaced == []


async def test_a_change_of_unknown_outcome_replaces_the_epoch() -> None:
    """It may have been committed. The operator gets the error that the outcome is unknown."""

    class Unknown(InMemoryIdentity):
        async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
            await super().revoke_token(org_id, token_id, now)
            raise OutcomeUnknownError

    office = Office()
    office.store = Unknown()
    office.manage = ManageIdentity(office.store, PEPPERS, office.epochs, office.clock, SequentialIds())
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)

    with pytest.raises(OutcomeUnknownError):
        await office.manage.revoke_token(organization.id, token.token_id)
    assert office.epochs.replaced == [organization.id]


async def test_a_change_succeeds_without_redis() -> None:
    """The change is committed and reported, and the watch delivers it."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    office.epochs.reachable = False
    position = await office.position()

    await office.manage.revoke_token(organization.id, token.token_id)

    await office.refuses(token)
    assert await office.changes_since(position) == [Change(organization.id, Kind.TOKENS)]


async def test_a_cancelled_change_still_replaces_the_epoch() -> None:
    """A cancelled call never leaves a committed change with the old epoch."""
    committed, go_on = asyncio.Event(), asyncio.Event()

    class Slow(InMemoryIdentity):
        async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
            revoked = await super().revoke_token(org_id, token_id, now)
            committed.set()
            await go_on.wait()
            return revoked

    office = Office()
    office.store = Slow()
    office.manage = ManageIdentity(office.store, PEPPERS, office.epochs, office.clock, SequentialIds())
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    replaced = asyncio.Event()

    async def note(_org_id: UUID) -> None:
        replaced.set()

    office.epochs.on_replaced = note
    call = asyncio.ensure_future(office.manage.revoke_token(organization.id, token.token_id))
    await committed.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert office.epochs.replaced == []

    go_on.set()
    await replaced.wait()
    assert office.epochs.replaced == [organization.id]
