"""Tests of the authorization of services and administrators."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from harness.auth import CREDENTIAL, Identity, bearer
from ibex.adapters.grpc.callers import (
    CONFIRMED_FOR_S,
    FAILURE_BURST,
    FAILURES_PER_S,
    MAX_UNCONFIRMED_CALLS,
    Callers,
    GuessLimit,
    check_grant,
)
from ibex.adapters.grpc.statuses import ServiceCredentialError, TooManyCallsError
from ibex.domain.errors import InsufficientPermissionsError, InvalidTokenError, MissingTokenError
from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.model import PersonalAccessToken, Principal
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT, Permission, permissions_of

ORG, AGENT, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)


@pytest.fixture
async def identity() -> Identity:
    """An organization with its tokens."""
    return await Identity.settled()


@pytest.mark.parametrize(
    "metadata", [(), bearer("wrong"), bearer(CREDENTIAL + "x"), bearer("ü"), bearer(CREDENTIAL) * 2]
)
def test_a_service_presents_its_credential(identity: Identity, metadata: tuple[tuple[str, str], ...]) -> None:
    """It must be complete and present once. Without a configured credential, every service is admitted."""
    callers = Callers(identity.use_cases.tokens, f" {CREDENTIAL}\n", identity.clock)

    callers.admit_service(bearer(CREDENTIAL))
    Callers(identity.use_cases.tokens, None, identity.clock).admit_service(metadata)
    with pytest.raises(ServiceCredentialError):
        callers.admit_service(metadata)


@pytest.mark.parametrize("credential", ["", " \n"])
def test_an_empty_credential_is_refused(identity: Identity, credential: str) -> None:
    """It would admit every caller that presents none."""
    with pytest.raises(ValueError, match="empty"):
        Callers(identity.use_cases.tokens, credential, identity.clock)


def test_two_credentials_are_valid_during_a_rotation(identity: Identity) -> None:
    """Then only the new one is. No list of them admits every service."""
    callers = Callers(identity.use_cases.tokens, CREDENTIAL, identity.clock)
    callers.accept((CREDENTIAL, "another"))
    for credential in (CREDENTIAL, "another"):
        callers.admit_service(bearer(credential))

    callers.accept(("another",))
    for wrong in ((), ("",), ("another", " ")):
        with pytest.raises(ValueError, match="empty"):
            callers.accept(wrong)
    callers.admit_service(bearer("another"))
    with pytest.raises(ServiceCredentialError):
        callers.admit_service(bearer(CREDENTIAL))


def test_callers_show_no_credential(identity: Identity) -> None:
    """The repr does not contain it."""
    assert CREDENTIAL not in repr(Callers(identity.use_cases.tokens, CREDENTIAL, identity.clock))


async def test_an_administrator_belongs_to_the_organization(identity: Identity) -> None:
    """It needs one of the given permissions."""
    callers = Callers(identity.use_cases.tokens, None, identity.clock)
    admin = bearer(identity.admin.reveal())

    caller = await callers.admit_administrator(admin, identity.org.id, Permission.TOKEN_CREATE)

    assert caller.token_id == identity.admin.token_id
    either = (Permission.FEDERATION_SHARE, Permission.TOKEN_REVOKE)
    await callers.admit_administrator(admin, identity.org.id, *either)
    for org_id, needed in ((OTHER, Permission.TOKEN_CREATE), (identity.org.id, Permission.FEDERATION_SHARE)):
        with pytest.raises(InsufficientPermissionsError):
            await callers.admit_administrator(admin, org_id, needed)
    with pytest.raises(MissingTokenError):
        await callers.admit_administrator((), identity.org.id, Permission.TOKEN_CREATE)
    with pytest.raises(InvalidTokenError):
        await callers.admit_administrator(bearer("x"), identity.org.id, Permission.TOKEN_CREATE)


async def fails(guesses: GuessLimit, identity: Identity, token: PersonalAccessToken) -> type[Exception]:
    """Return the type of the error that verifying a token raises."""
    with pytest.raises((InvalidTokenError, TooManyCallsError)) as raised:
        await guesses.verify(identity.use_cases.tokens, token)
    return raised.type


async def test_unconfirmed_tokens_are_rate_limited_and_confirmed_ones_are_not(identity: Identity) -> None:
    """Failures use up a budget, which is refilled over time. A confirmed token is not limited until it fails."""
    guesses, tokens = GuessLimit(identity.clock), identity.use_cases.tokens
    guess = PersonalAccessToken.issue(OTHER, bytes(32))
    await guesses.verify(tokens, identity.admin)

    raised = [await fails(guesses, identity, guess) for _ in range(FAILURE_BURST + 1)]

    assert raised == [InvalidTokenError] * FAILURE_BURST + [TooManyCallsError]
    assert await fails(guesses, identity, identity.token) is TooManyCallsError
    await guesses.verify(tokens, identity.admin)
    identity.clock.advance(timedelta(seconds=2 / FAILURES_PER_S))
    assert [await fails(guesses, identity, guess) for _ in range(3)][1:] == [InvalidTokenError, TooManyCallsError]
    await identity.manage.revoke_token(identity.org.id, identity.admin.token_id)
    assert await fails(guesses, identity, identity.admin) is InvalidTokenError
    assert await fails(guesses, identity, identity.admin) is TooManyCallsError


async def test_a_confirmation_expires(identity: Identity) -> None:
    """A confirmation is valid for an hour."""
    guesses, tokens = GuessLimit(identity.clock), identity.use_cases.tokens
    await guesses.verify(tokens, identity.admin)
    identity.clock.advance(timedelta(seconds=CONFIRMED_FOR_S))
    identity.store.hangs = True
    waiting = [asyncio.create_task(guesses.verify(tokens, identity.admin)) for _ in range(MAX_UNCONFIRMED_CALLS)]
    while identity.store.finds < 1 + MAX_UNCONFIRMED_CALLS:  # noqa: ASYNC110 - yields to the other tasks
        await asyncio.sleep(0)

    assert await fails(guesses, identity, identity.admin) is TooManyCallsError

    identity.store.released.set()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("permissions", [permissions_of(0), AGENT_DEFAULT, ADMIN])
def test_a_caller_may_grant_what_it_has(permissions: Permission) -> None:
    """The grant is for any agent of the organization, or for the agent that the caller is bound to."""
    check_grant(Principal(ORG, OTHER, ADMIN), TokenGrant("x", permissions))
    check_grant(Principal(ORG, OTHER, ADMIN), TokenGrant("x", permissions, agent_id=AGENT))
    check_grant(Principal(ORG, OTHER, ADMIN, agent_id=AGENT), TokenGrant("x", permissions, agent_id=AGENT))


@pytest.mark.parametrize(
    ("bound_to", "grant"),
    [
        (None, TokenGrant("x", AGENT_DEFAULT | Permission.TOKEN_REVOKE)),
        (None, TokenGrant("x", permissions_of(1 << 55))),
        (AGENT, TokenGrant("x", AGENT_DEFAULT)),
        (AGENT, TokenGrant("x", AGENT_DEFAULT, agent_id=OTHER)),
    ],
)
def test_a_caller_cannot_grant_what_it_lacks(bound_to: UUID | None, grant: TokenGrant) -> None:
    """This covers permissions, and tokens that are not bound to the caller's agent."""
    caller = Principal(ORG, OTHER, AGENT_DEFAULT | Permission.TOKEN_CREATE, agent_id=bound_to)

    with pytest.raises(InsufficientPermissionsError):
        check_grant(caller, grant)
