"""What operators do with organizations, users, agents and tokens, and what verifying them means."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Never
from uuid import UUID

import pytest

from ibex.adapters.memory.announcements import RecordingAnnouncements
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.identity import InMemoryIdentity
from ibex.adapters.memory.ids import SequentialIds
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    AuthUnavailableError,
    InvalidTokenError,
    NotFoundError,
    OutcomeUnknownError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.freshness import Kind
from ibex.domain.identity import Agent, AgentStatus, PersonalAccessToken, Principal
from ibex.domain.manage_identity import (
    AlreadyExistsError,
    ManageIdentity,
    NamedAgent,
    Organization,
    OrganizationStatus,
    StoredToken,
    TokenGrant,
    VerifyAgent,
    VerifyToken,
)
from ibex.domain.permissions import ADMIN, AGENT_DEFAULT, CHAT
from ibex.domain.token_hash import TokenPeppers

if TYPE_CHECKING:
    from datetime import datetime

PEPPERS = TokenPeppers({"k1": b"a pepper of some length"})
MISSING = UUID(int=404)


class Office:
    """The use cases over an in-memory store."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = InMemoryIdentity()
        self.announced = RecordingAnnouncements()
        self.manage = ManageIdentity(self.store, PEPPERS, self.announced, self.clock, SequentialIds())
        self.verify_token = VerifyToken(self.store, PEPPERS, self.clock)
        self.verify_agent = VerifyAgent(self.store)

    async def settled(self) -> tuple[Organization, NamedAgent]:
        """Return an organization that has an agent."""
        organization = await self.manage.create_organization("acme", 60)
        agent = await self.manage.create_agent(organization.id, "support")
        assert self.announced.changes in ([], [(organization.id, Kind.AGENTS)])
        self.announced.changes.clear()
        return organization, agent

    async def refuses(self, token: PersonalAccessToken) -> None:
        """Assert that a token is refused, with the one message that all refusals have."""
        with pytest.raises(InvalidTokenError) as raised:
            await self.verify_token.verify(token)
        assert str(raised.value) == InvalidTokenError.default_message


GRANT = TokenGrant("laptop", CHAT)


async def test_a_live_token_is_its_principal() -> None:
    """Everything that the grant and the organization say, and nothing else."""
    office = Office()
    organization, agent = await office.settled()
    user = await office.manage.create_user(organization.id, "kim@example.com")
    expires_at = office.clock.now() + timedelta(days=1)
    grant = TokenGrant("laptop", ADMIN, user.id, agent.id, expires_at)

    token = await office.manage.create_token(organization.id, grant)

    assert await office.verify_token.verify(token) == Principal(
        org_id=organization.id,
        token_id=token.token_id,
        permissions=ADMIN,
        user_id=user.id,
        agent_id=agent.id,
        expires_at=expires_at,
        rate_limit_rpm=60,
    )


async def test_a_token_is_returned_once_and_never_kept() -> None:
    """The store has a digest; nothing of the secret is in it, nor in any repr."""
    office = Office()
    organization, _ = await office.settled()

    token = await office.manage.create_token(organization.id, GRANT)
    (stored,) = await office.manage.tokens(organization.id)

    assert PersonalAccessToken.parse(token.reveal()) is not None
    assert (stored.id, stored.key_id, stored.digest) == (token.token_id, *PEPPERS.hash(token))
    assert token.reveal()[46:].encode() not in stored.digest
    assert repr(stored) == f"<StoredToken {token.display_prefix}>"


async def test_an_unknown_token_is_refused() -> None:
    """Well-formed, and nobody's."""
    await Office().refuses(PersonalAccessToken.issue(MISSING, bytes(32)))


async def test_an_unknown_token_costs_the_work_of_a_known_one() -> None:
    """Its absence cannot be timed: there is a comparison all the same (spec 4)."""

    class Watched(TokenPeppers):
        spent = 0

        def spend_time(self, token: PersonalAccessToken) -> None:
            self.spent += 1
            super().spend_time(token)

    office = Office()
    peppers = Watched({"k1": bytes(16)})
    office.verify_token = VerifyToken(office.store, peppers, office.clock)

    await office.refuses(PersonalAccessToken.issue(MISSING, bytes(32)))

    assert peppers.spent == 1


async def test_another_secret_under_a_known_id_is_refused() -> None:
    """The id is public; only the secret counts."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)

    await office.refuses(PersonalAccessToken.issue(token.token_id, bytes(32)))


async def test_a_revoked_token_is_refused_from_then_on() -> None:
    """At once, and for good; the others live on."""
    office = Office()
    organization, _ = await office.settled()
    revoked = await office.manage.create_token(organization.id, GRANT)
    other = await office.manage.create_token(organization.id, GRANT)

    await office.manage.revoke_token(organization.id, revoked.token_id)

    await office.refuses(revoked)
    assert (await office.verify_token.verify(other)).token_id == other.token_id


async def test_a_token_is_refused_from_its_expiry_on() -> None:
    """Good a microsecond before, refused at the very moment."""
    office = Office()
    organization, _ = await office.settled()
    grant = TokenGrant("brief", CHAT, expires_at=office.clock.now() + timedelta(minutes=1))
    token = await office.manage.create_token(organization.id, grant)

    office.clock.advance(timedelta(minutes=1) - timedelta(microseconds=1))
    await office.verify_token.verify(token)
    office.clock.advance(timedelta(microseconds=1))

    await office.refuses(token)


async def test_a_suspended_organizations_tokens_are_refused_until_it_is_back() -> None:
    """All of them, without touching one."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)

    await office.manage.set_organization_status(organization.id, OrganizationStatus.SUSPENDED)
    await office.refuses(token)
    await office.manage.set_organization_status(organization.id, OrganizationStatus.ACTIVE)

    await office.verify_token.verify(token)


async def test_a_token_of_a_pepper_that_is_gone_is_refused() -> None:
    """Taking a pepper away takes away its tokens."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    office.verify_token = VerifyToken(office.store, TokenPeppers({"k2": b"a pepper of some length"}), office.clock)

    await office.refuses(token)


async def test_verifying_writes_nothing() -> None:
    """Neither a success nor a failure leaves a trace in the store."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    before = await office.manage.tokens(organization.id)

    await office.verify_token.verify(token)
    await office.refuses(PersonalAccessToken.issue(token.token_id, bytes(32)))

    assert list(await office.manage.tokens(organization.id)) == list(before)


async def test_an_agent_is_the_organizations_own() -> None:
    """Whatever its status; another organization's is no different from none."""
    office = Office()
    organization, agent = await office.settled()
    other = await office.manage.create_organization("other")
    await office.manage.set_agent_status(organization.id, agent.id, AgentStatus.PAUSED)

    assert await office.verify_agent.verify(organization.id, agent.id) == Agent(
        agent.id, organization.id, AgentStatus.PAUSED
    )
    messages = set()
    for org_id, agent_id in ((other.id, agent.id), (organization.id, MISSING)):
        with pytest.raises(AgentNotAuthorizedError) as raised:
            await office.verify_agent.verify(org_id, agent_id)
        messages.add(str(raised.value))
    assert len(messages) == 1


class LostStore(InMemoryIdentity):
    """A store that cannot be reached."""

    async def find_token(self, token_id: UUID) -> Never:
        """Fail."""
        raise ServiceDegradedError(f"no way to {token_id}")

    async def find_agent(self, org_id: UUID, agent_id: UUID) -> Never:
        """Fail."""
        raise ServiceDegradedError(f"no way to {org_id} and {agent_id}")


async def test_a_store_that_is_lost_is_said_to_be() -> None:
    """Verifying fails as the source's own word, in the default's words, each port with its kind of error."""
    token = PersonalAccessToken.issue(MISSING, bytes(32))

    with pytest.raises(TokenSourceUnavailableError) as no_token:
        await VerifyToken(LostStore(), PEPPERS, ManualClock()).verify(token)
    with pytest.raises(AgentSourceUnavailableError) as no_agent:
        await VerifyAgent(LostStore()).verify(MISSING, MISSING)

    assert isinstance(no_token.value, ServiceDegradedError)
    assert isinstance(no_agent.value, AuthUnavailableError)
    assert str(no_token.value) == ServiceDegradedError.default_message
    assert str(no_agent.value) == AuthUnavailableError.default_message


async def test_what_is_created_can_be_listed() -> None:
    """Oldest first, with the times of their making."""
    office = Office()
    first, agent = await office.settled()
    office.clock.advance(timedelta(seconds=1))
    second = await office.manage.create_organization("second")

    assert list(await office.manage.organizations()) == [first, second]
    assert list(await office.manage.agents(first.id)) == [agent]
    assert second.created_at - first.created_at == timedelta(seconds=1)
    assert (first.rate_limit_rpm, second.rate_limit_rpm) == (60, None)
    assert (first.status, agent.status) == (OrganizationStatus.ACTIVE, AgentStatus.ACTIVE)


async def test_names_are_taken_once() -> None:
    """An organization's, an agent's and an e-mail address within it."""
    office = Office()
    organization, _ = await office.settled()
    await office.manage.create_user(organization.id, "kim@example.com")

    with pytest.raises(AlreadyExistsError):
        await office.manage.create_organization("acme")
    with pytest.raises(AlreadyExistsError):
        await office.manage.create_agent(organization.id, "support")
    with pytest.raises(AlreadyExistsError):
        await office.manage.create_user(organization.id, "kim@example.com")


async def test_what_is_not_there_cannot_be_changed() -> None:
    """Each says so; nothing of another organization's can be reached."""
    office = Office()
    organization, agent = await office.settled()
    other = await office.manage.create_organization("other")
    token = await office.manage.create_token(organization.id, GRANT)

    with pytest.raises(NotFoundError):
        await office.manage.set_organization_status(MISSING, OrganizationStatus.SUSPENDED)
    with pytest.raises(NotFoundError):
        await office.manage.set_agent_status(other.id, agent.id, AgentStatus.PAUSED)
    with pytest.raises(NotFoundError):
        await office.manage.revoke_token(other.id, token.token_id)
    with pytest.raises(NotFoundError):
        await office.manage.create_token(other.id, TokenGrant("foreign", AGENT_DEFAULT, agent_id=agent.id))

    await office.verify_token.verify(token)


async def test_revoking_again_keeps_the_first_time() -> None:
    """When it was revoked is a fact."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    revoked_at = office.clock.now()
    await office.manage.revoke_token(organization.id, token.token_id)
    office.clock.advance(timedelta(hours=1))

    await office.manage.revoke_token(organization.id, token.token_id)

    stored: list[StoredToken] = list(await office.manage.tokens(organization.id))
    assert [t.revoked_at for t in stored] == [revoked_at]


async def test_each_change_is_announced_by_its_kind() -> None:
    """Tokens and the organization they hang on are one kind, agents the other; a new token is put into the filter."""
    office = Office()
    organization, agent = await office.settled()
    assert (office.announced.changes, office.announced.new_tokens) == ([], [])

    token = await office.manage.create_token(organization.id, GRANT)
    assert (office.announced.changes, office.announced.new_tokens) == ([], [token.token_id])

    await office.manage.revoke_token(organization.id, token.token_id)
    await office.manage.set_agent_status(organization.id, agent.id, AgentStatus.PAUSED)
    await office.manage.set_organization_status(organization.id, OrganizationStatus.SUSPENDED)
    kinds = [Kind.TOKENS, Kind.AGENTS, Kind.TOKENS]
    assert office.announced.changes == [(organization.id, kind) for kind in kinds]
    assert office.announced.new_tokens == [token.token_id]


async def test_a_new_agent_is_announced() -> None:
    """A proxy may remember that the organization has no such agent."""
    office = Office()
    organization = await office.manage.create_organization("acme")
    assert office.announced.changes == []

    await office.manage.create_agent(organization.id, "support")

    assert office.announced.changes == [(organization.id, Kind.AGENTS)]


async def test_what_is_announced_has_been_committed() -> None:
    """Whoever hears of a change and looks finds it made."""

    class Listening(RecordingAnnouncements):
        async def changed(self, org_id: UUID, kind: Kind) -> None:
            await super().changed(org_id, kind)
            seen.append([t.revoked_at is not None for t in await office.store.tokens(org_id)])

        async def token_created(self, token_id: UUID) -> None:
            await super().token_created(token_id)
            seen.append(await office.store.find_token(token_id) is not None)

    seen: list[object] = []
    office = Office()
    office.manage = ManageIdentity(office.store, PEPPERS, Listening(), office.clock, SequentialIds())
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    await office.manage.revoke_token(organization.id, token.token_id)

    assert seen == [[], True, [True]]


async def test_a_change_that_found_nothing_is_not_announced() -> None:
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
        await office.manage.create_token(MISSING, GRANT)

    assert (office.announced.changes, office.announced.new_tokens) == ([], [])


async def test_a_change_of_unknown_outcome_is_announced() -> None:
    """It may have been committed; who asked is told that nobody knows."""

    class Unknown(InMemoryIdentity):
        async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
            await super().revoke_token(org_id, token_id, now)
            raise OutcomeUnknownError

    office = Office()
    office.store = Unknown()
    office.manage = ManageIdentity(office.store, PEPPERS, office.announced, office.clock, SequentialIds())
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)

    with pytest.raises(OutcomeUnknownError):
        await office.manage.revoke_token(organization.id, token.token_id)
    assert office.announced.changes == [(organization.id, Kind.TOKENS)]


@pytest.mark.parametrize("name", ["", "  ", "x" * 129, "a\nb", "\x1b[31m"])
async def test_a_name_can_be_read(name: str) -> None:
    """Of an organization, an agent and a token; nothing is stored under another."""
    office = Office()
    organization = await office.manage.create_organization("acme")

    for create in (
        office.manage.create_organization(name),
        office.manage.create_agent(organization.id, name),
        office.manage.create_token(organization.id, TokenGrant(name, AGENT_DEFAULT)),
    ):
        with pytest.raises(ValueError, match="1 to 128 printable"):
            await create
    assert len(await office.manage.organizations()) == 1
    assert list(await office.manage.tokens(organization.id)) == []
