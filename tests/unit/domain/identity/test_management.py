"""Management of organizations, users, agents and tokens, and verification against the store."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Never

import pytest

from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from harness.office import GRANT, MISSING, PEPPERS, Office
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    AgentSourceUnavailableError,
    AuthUnavailableError,
    NotFoundError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.identity.management import (
    MAX_RATE_LIMIT_RPM,
    AlreadyExistsError,
    OrganizationStatus,
    StoredToken,
    TokenGrant,
    VerifyAgent,
    VerifyToken,
)
from ibex.domain.identity.model import Agent, AgentStatus, PersonalAccessToken, Principal
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT, CHAT
from ibex.domain.identity.token_hash import TokenPeppers

if TYPE_CHECKING:
    from uuid import UUID


async def test_a_live_token_is_verified_as_its_principal() -> None:
    """The principal has all properties of the grant and the organization, and no others."""
    office = Office()
    organization, agent = await office.settled()
    user = await office.manage.create_user(organization.id, "kim@example.com")
    expires_at = office.clock.now() + timedelta(days=1)
    grant = TokenGrant("laptop", ADMIN, user.id, agent.id, expires_at)

    token = await office.manage.create_token(organization.id, grant)

    office.clock.advance(timedelta(hours=1))
    assert (await office.verify_token.verify(token)).value == Principal(
        org_id=organization.id,
        token_id=token.token_id,
        permissions=ADMIN,
        user_id=user.id,
        agent_id=agent.id,
        remaining_s=23 * 3_600,
        rate_limit_rpm=60,
    )


async def test_a_token_is_returned_once_and_never_stored() -> None:
    """The store contains a digest and nothing of the secret. No repr contains the secret either."""
    office = Office()
    organization, _ = await office.settled()

    token = await office.manage.create_token(organization.id, GRANT)
    (stored,) = await office.manage.tokens(organization.id)

    assert PersonalAccessToken.parse(token.reveal()) is not None
    assert (stored.id, stored.key_id, stored.digest) == (token.token_id, *PEPPERS.hash(token))
    assert token.reveal()[46:].encode() not in stored.digest
    assert repr(stored) == f"<StoredToken {token.display_prefix}>"


async def test_an_unknown_token_is_refused() -> None:
    """It is well-formed, but does not exist."""
    await Office().refuses(PersonalAccessToken.issue(MISSING, bytes(32)))


async def test_an_unknown_token_takes_as_much_work_as_a_known_one() -> None:
    """A dummy comparison runs, so that timing does not reveal whether a token exists."""

    class Watched(TokenPeppers):
        spent = 0

        def compare_dummy(self, token: PersonalAccessToken) -> None:
            self.spent += 1
            super().compare_dummy(token)

    office = Office()
    peppers = Watched({"k1": bytes(16)})
    office.verify_token = VerifyToken(office.store, peppers, office.epochs, office.clock)

    await office.refuses(PersonalAccessToken.issue(MISSING, bytes(32)))

    assert peppers.spent == 1


async def test_another_secret_with_a_known_id_is_refused() -> None:
    """The id is public; only the secret proves the owner."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)

    await office.refuses(PersonalAccessToken.issue(token.token_id, bytes(32)))


async def test_a_revoked_token_is_refused_permanently() -> None:
    """The refusal starts at once. Other tokens stay valid."""
    office = Office()
    organization, _ = await office.settled()
    revoked = await office.manage.create_token(organization.id, GRANT)
    other = await office.manage.create_token(organization.id, GRANT)

    await office.manage.revoke_token(organization.id, revoked.token_id)

    await office.refuses(revoked)
    assert (await office.verify_token.verify(other)).value.token_id == other.token_id


async def test_a_token_is_refused_from_its_expiry_on() -> None:
    """It is valid a microsecond before its expiry, and refused at that exact time."""
    office = Office()
    organization, _ = await office.settled()
    grant = TokenGrant("brief", CHAT, expires_at=office.clock.now() + timedelta(minutes=1))
    token = await office.manage.create_token(organization.id, grant)

    office.clock.advance(timedelta(minutes=1) - timedelta(microseconds=1))
    await office.verify_token.verify(token)
    office.clock.advance(timedelta(microseconds=1))

    await office.refuses(token)


async def test_the_tokens_of_a_suspended_organization_are_refused_until_it_is_active_again() -> None:
    """The tokens themselves do not change."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)

    await office.manage.set_organization_status(organization.id, OrganizationStatus.SUSPENDED)
    await office.refuses(token)
    await office.manage.set_organization_status(organization.id, OrganizationStatus.ACTIVE)

    await office.verify_token.verify(token)


@pytest.mark.parametrize("limit", [None, 0, 1, MAX_RATE_LIMIT_RPM])
async def test_tokens_have_the_changed_rate_limit_of_their_organization(limit: int | None) -> None:
    """The list of organizations shows it too. None is the default of the deployment, and 0 is unlimited."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)

    await office.manage.set_organization_rate_limit(organization.id, limit)

    assert (await office.verify_token.verify(token)).value.rate_limit_rpm == limit
    assert [found.rate_limit_rpm for found in await office.manage.organizations()] == [limit]


@pytest.mark.parametrize("limit", [-1, MAX_RATE_LIMIT_RPM + 1])
async def test_a_rate_limit_out_of_range_is_refused(limit: int) -> None:
    """The message names the range and the value. Neither a creation nor a change stores anything."""
    office = Office()
    organization, _ = await office.settled()

    for change in (
        office.manage.create_organization("other", limit),
        office.manage.set_organization_rate_limit(organization.id, limit),
    ):
        with pytest.raises(ValueError, match=rf"must be 0 \(unlimited\) to 2,147,483,647 .* not {limit:,}\."):
            await change
    assert list(await office.manage.organizations()) == [organization]
    assert office.epochs.replaced == []


async def test_a_token_of_a_removed_pepper_is_refused() -> None:
    """Removing a pepper invalidates its tokens."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    other_peppers = TokenPeppers({"k2": b"a pepper of some length"})
    office.verify_token = VerifyToken(office.store, other_peppers, office.epochs, office.clock)

    await office.refuses(token)


async def test_verification_does_not_write_to_the_store() -> None:
    """Neither a success nor a failure changes the store."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    before = await office.manage.tokens(organization.id)

    await office.verify_token.verify(token)
    await office.refuses(PersonalAccessToken.issue(token.token_id, bytes(32)))

    assert list(await office.manage.tokens(organization.id)) == list(before)


async def test_an_agent_is_found_only_in_its_own_organization() -> None:
    """Its status does not matter. Another organization's agent is refused like one that does not exist."""
    office = Office()
    organization, agent = await office.settled()
    other = await office.manage.create_organization("other")
    await office.manage.set_agent_status(organization.id, agent.id, AgentStatus.PAUSED)

    found = await office.verify_agent.verify(organization.id, agent.id)
    assert found.value == Agent(agent.id, organization.id, AgentStatus.PAUSED)
    messages = set()
    for org_id, agent_id in ((other.id, agent.id), (organization.id, MISSING)):
        with pytest.raises(AgentNotAuthorizedError) as raised:
            await office.verify_agent.verify(org_id, agent_id)
        messages.add(str(raised.value))
    assert len(messages) == 1


class LostStore(InMemoryIdentity):
    """A store that is unavailable."""

    async def find_token(self, token_id: UUID) -> Never:
        """Fail."""
        raise ServiceDegradedError(f"no way to {token_id}")

    async def find_agent(self, org_id: UUID, agent_id: UUID) -> Never:
        """Fail."""
        raise ServiceDegradedError(f"no way to {org_id} and {agent_id}")


async def test_an_unavailable_store_raises_the_errors_of_the_source() -> None:
    """Each port has its own error, with the default message."""
    token = PersonalAccessToken.issue(MISSING, bytes(32))
    clock = ManualClock()
    epochs = InMemoryEpochs(clock, SequentialIds())

    with pytest.raises(TokenSourceUnavailableError) as no_token:
        await VerifyToken(LostStore(), PEPPERS, epochs, clock).verify(token)
    with pytest.raises(AgentSourceUnavailableError) as no_agent:
        await VerifyAgent(LostStore(), epochs).verify(MISSING, MISSING)

    assert isinstance(no_token.value, ServiceDegradedError)
    assert isinstance(no_agent.value, AuthUnavailableError)
    assert str(no_token.value) == ServiceDegradedError.default_message
    assert str(no_agent.value) == AuthUnavailableError.default_message


async def test_created_objects_are_listed() -> None:
    """The oldest comes first, and each has its time of creation."""
    office = Office()
    first, agent = await office.settled()
    office.clock.advance(timedelta(seconds=1))
    second = await office.manage.create_organization("second")

    assert list(await office.manage.organizations()) == [first, second]
    assert list(await office.manage.agents(first.id)) == [agent]
    assert second.created_at - first.created_at == timedelta(seconds=1)
    assert (first.rate_limit_rpm, second.rate_limit_rpm) == (60, None)
    assert (first.status, agent.status) == (OrganizationStatus.ACTIVE, AgentStatus.ACTIVE)


async def test_names_are_unique() -> None:
    """Organizations have unique names; agents and e-mail addresses are unique within an organization."""
    office = Office()
    organization, _ = await office.settled()
    await office.manage.create_user(organization.id, "kim@example.com")

    with pytest.raises(AlreadyExistsError):
        await office.manage.create_organization("acme")
    with pytest.raises(AlreadyExistsError):
        await office.manage.create_agent(organization.id, "support")
    with pytest.raises(AlreadyExistsError):
        await office.manage.create_user(organization.id, "kim@example.com")


async def test_changing_a_missing_object_raises() -> None:
    """Objects of another organization count as missing."""
    office = Office()
    organization, agent = await office.settled()
    other = await office.manage.create_organization("other")
    token = await office.manage.create_token(organization.id, GRANT)

    with pytest.raises(NotFoundError):
        await office.manage.set_organization_status(MISSING, OrganizationStatus.SUSPENDED)
    with pytest.raises(NotFoundError):
        await office.manage.set_organization_rate_limit(MISSING, 5)
    with pytest.raises(NotFoundError):
        await office.manage.set_agent_status(other.id, agent.id, AgentStatus.PAUSED)
    with pytest.raises(NotFoundError):
        await office.manage.revoke_token(other.id, token.token_id)
    with pytest.raises(NotFoundError):
        await office.manage.create_token(other.id, TokenGrant("foreign", AGENT_DEFAULT, agent_id=agent.id))

    await office.verify_token.verify(token)


async def test_revoking_again_keeps_the_first_time() -> None:
    """The time of the revocation does not change."""
    office = Office()
    organization, _ = await office.settled()
    token = await office.manage.create_token(organization.id, GRANT)
    revoked_at = office.clock.now()
    await office.manage.revoke_token(organization.id, token.token_id)
    office.clock.advance(timedelta(hours=1))

    await office.manage.revoke_token(organization.id, token.token_id)

    stored: list[StoredToken] = list(await office.manage.tokens(organization.id))
    assert [t.revoked_at for t in stored] == [revoked_at]


@pytest.mark.parametrize("name", ["", "  ", "x" * 129, "a\nb", "\x1b[31m"])
async def test_an_empty_long_or_unprintable_name_is_refused(name: str) -> None:
    """This applies to organizations, agents and tokens. Nothing is stored."""
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
