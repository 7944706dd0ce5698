"""The contract of ``TokenVerifier``, in process and over gRPC."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.auth import Identity, asking, serving
from ibex.adapters.grpc.verifiers import GrpcTokenVerifier
from ibex.domain.errors import InvalidTokenError, ServiceDegradedError, TokenSourceUnavailableError
from ibex.domain.identity.management import OrganizationStatus, TokenGrant, VerifyToken
from ibex.domain.identity.model import PersonalAccessToken, Principal
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT, Permission, permissions_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.identity.model import TokenVerifier


@pytest.fixture
async def identity() -> Identity:
    """An organization with an agent and tokens."""
    return await Identity.settled()


@pytest.fixture(params=[VerifyToken, GrpcTokenVerifier])
async def verifier(request: pytest.FixtureRequest, identity: Identity) -> AsyncIterator[TokenVerifier]:
    """Each verifier in turn."""
    if request.param is VerifyToken:
        yield identity.use_cases.tokens
        return
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(identity))
        channel = await stack.enter_async_context(asking(server.port))
        yield GrpcTokenVerifier(channel, identity.clock)


async def refuses(verifier: TokenVerifier, token: PersonalAccessToken) -> None:
    """Assert that a token is refused with the message of every refusal."""
    with pytest.raises(InvalidTokenError) as raised:
        await verifier.verify(token)
    assert str(raised.value) == InvalidTokenError.default_message


async def test_a_live_token_returns_its_principal(verifier: TokenVerifier, identity: Identity) -> None:
    """The principal contains the grant, the organization's rate limit and the remaining lifetime."""
    user = await identity.manage.create_user(identity.org.id, "ada@example.com")
    expires_at = identity.clock.now() + timedelta(days=400, milliseconds=7)
    grant = TokenGrant("x", ADMIN, user.id, identity.agent.id, expires_at)
    token = await identity.manage.create_token(identity.org.id, grant)

    assert (await verifier.verify(token)).value == Principal(
        identity.org.id, token.token_id, ADMIN, user.id, identity.agent.id, 400 * 86_400 + 0.007, 60
    )
    assert (await verifier.verify(identity.admin)).value == Principal(
        identity.org.id, identity.admin.token_id, ADMIN, rate_limit_rpm=60
    )


@pytest.mark.parametrize("bitmap", [0, 1 << 55, (1 << 56) - 1])
async def test_permissions_are_returned_bit_for_bit(verifier: TokenVerifier, identity: Identity, bitmap: int) -> None:
    """Unassigned bits are kept."""
    token = await identity.manage.create_token(identity.org.id, TokenGrant("x", permissions_of(bitmap)))

    permissions = (await verifier.verify(token)).value.permissions

    assert int(permissions) == bitmap
    assert isinstance(permissions, Permission)


@pytest.mark.parametrize("limit", [None, 0, 1, 2_147_483_647])
async def test_the_principal_has_the_rate_limit_of_its_organization(
    verifier: TokenVerifier, identity: Identity, limit: int | None
) -> None:
    """The limit is None if the organization sets none. Zero means unlimited."""
    organization = await identity.manage.create_organization("other", limit)
    token = await identity.manage.create_token(organization.id, TokenGrant("x", AGENT_DEFAULT))

    assert (await verifier.verify(token)).value.rate_limit_rpm == limit


async def test_the_result_contains_the_epoch(verifier: TokenVerifier, identity: Identity) -> None:
    """The first result already has an epoch. A revocation replaces it, and it stays the same otherwise."""
    epochs = [(await verifier.verify(identity.token)).epoch for _ in range(2)]
    await identity.manage.revoke_token(identity.org.id, identity.admin.token_id)
    epochs += [(await verifier.verify(identity.token)).epoch for _ in range(2)]

    assert all(epoch.was_read and epoch.value for epoch in epochs)
    assert epochs[0] == epochs[1] != epochs[2] == epochs[3]


async def test_an_unknown_token_is_refused(verifier: TokenVerifier, identity: Identity) -> None:
    """A known id with another secret is refused too."""
    await refuses(verifier, PersonalAccessToken.issue(uuid4(), bytes(32)))
    await refuses(verifier, PersonalAccessToken.issue(identity.token.token_id, bytes(32)))


async def test_a_revoked_token_is_refused(verifier: TokenVerifier, identity: Identity) -> None:
    """Other tokens of the organization stay valid."""
    await verifier.verify(identity.token)
    await identity.manage.revoke_token(identity.org.id, identity.token.token_id)

    await refuses(verifier, identity.token)
    await verifier.verify(identity.admin)


async def test_a_token_is_refused_from_its_expiry_on(verifier: TokenVerifier, identity: Identity) -> None:
    """The token is valid until one microsecond before it expires."""
    expires_at = identity.clock.now() + timedelta(seconds=1)
    token = await identity.manage.create_token(identity.org.id, TokenGrant("x", ADMIN, expires_at=expires_at))
    identity.clock.advance(timedelta(microseconds=999_999))
    await verifier.verify(token)
    identity.clock.advance(timedelta(microseconds=1))

    await refuses(verifier, token)


async def test_tokens_of_a_suspended_organization_are_refused(verifier: TokenVerifier, identity: Identity) -> None:
    """The tokens are valid again when the organization is active again."""
    await identity.manage.set_organization_status(identity.org.id, OrganizationStatus.SUSPENDED)
    await refuses(verifier, identity.token)
    await identity.manage.set_organization_status(identity.org.id, OrganizationStatus.ACTIVE)

    await verifier.verify(identity.token)


async def test_an_unavailable_source_raises_its_own_error(verifier: TokenVerifier, identity: Identity) -> None:
    """The error differs from an invalid token. The next request after the source recovers succeeds."""
    identity.store.error = ServiceDegradedError("canary")
    with pytest.raises(TokenSourceUnavailableError) as raised:
        await verifier.verify(identity.token)
    identity.store.error = None

    assert str(raised.value) == ServiceDegradedError.default_message
    await verifier.verify(identity.token)


async def test_verifying_writes_nothing(verifier: TokenVerifier, identity: Identity) -> None:
    """Neither an accepted nor a refused token changes the stored tokens."""
    before = await identity.manage.tokens(identity.org.id)

    await verifier.verify(identity.token)
    await refuses(verifier, PersonalAccessToken.issue(identity.token.token_id, bytes(32)))

    assert await identity.manage.tokens(identity.org.id) == before
