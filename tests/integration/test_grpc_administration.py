"""Creation, revocation and listing of tokens by authorized callers, through real sockets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from harness.auth import Identity, bearer, serving, stub
from harness.auth_scene import SERVICE_METADATA, Code, Recorder, Scene, asking_for
from ibex.adapters.grpc.generated import auth_pb2
from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT, READ_ONLY, Permission

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """An auth server with its identity."""
    identity, observer = await Identity.settled(), Recorder()
    async with serving(identity, observer=observer) as server, stub(server.port) as service:
        yield Scene(identity, server, service, observer)


async def test_an_administrator_creates_a_token(scene: Scene) -> None:
    """The token is returned once, is valid, and has the requested values."""
    expires_at = scene.identity.clock.now() + timedelta(days=1, milliseconds=7)
    request = auth_pb2.CreateTokenRequest(
        org_id=scene.org_id,
        name="ci",
        permissions=int(READ_ONLY),
        agent_id=str(scene.identity.agent.id),
        expires_at=expires_at,
    )

    made = await scene.service.CreateToken(request, metadata=scene.admin)
    token = PersonalAccessToken.parse(made.access_token)
    assert token is not None
    seen = await scene.validate(token)

    assert str(token.token_id) == made.token_id == seen.token_id
    assert (seen.permissions, seen.agent_id) == (int(READ_ONLY), str(scene.identity.agent.id))
    assert seen.remaining.ToTimedelta() == timedelta(days=1, milliseconds=7)


async def test_a_caller_cannot_grant_more_than_it_has(scene: Scene) -> None:
    """It grants no permission that it lacks and, if it is bound to an agent, no token without that binding."""
    creator = Permission.TOKEN_CREATE | READ_ONLY
    free, bound = await scene.token_of(creator), await scene.token_of(creator, agent_id=scene.identity.agent.id)
    other = await scene.identity.manage.create_agent(scene.identity.org.id, "other")

    def request(permissions: Permission, **fields: Any) -> auth_pb2.CreateTokenRequest:
        return auth_pb2.CreateTokenRequest(org_id=scene.org_id, name="x", permissions=int(permissions), **fields)

    refusals = {
        (await scene.refusal("CreateToken", request(READ_ONLY | Permission.TOKEN_REVOKE), free))[:2],
        (await scene.refusal("CreateToken", request(READ_ONLY), bound))[:2],
        (await scene.refusal("CreateToken", request(READ_ONLY, agent_id=str(other.id)), bound))[:2],
    }
    await scene.service.CreateToken(request(creator), metadata=free)
    await scene.service.CreateToken(request(creator, agent_id=str(scene.identity.agent.id)), metadata=bound)

    assert refusals == {(Code.PERMISSION_DENIED, "insufficient-permissions")}


async def test_a_token_for_a_foreign_agent_or_user_is_refused(scene: Scene) -> None:
    """It is refused as not permitted, with the same response as for an unknown agent or user."""
    other = await scene.identity.manage.create_organization("other")
    theirs = await scene.identity.manage.create_agent(other.id, "theirs")
    refusals = {
        (
            await scene.refusal(
                "CreateToken",
                auth_pb2.CreateTokenRequest(org_id=scene.org_id, name="x", agent_id=str(agent_id)),
                scene.admin,
            )
        )
        for agent_id in (theirs.id, uuid4())
    }

    assert [(code, reason) for code, reason, _ in refusals] == [(Code.PERMISSION_DENIED, "not-found")]


async def test_a_revoked_token_is_refused_at_once(scene: Scene) -> None:
    """Revoking again succeeds. A token of another organization is refused like an unknown one."""
    other = await scene.identity.manage.create_organization("other")
    theirs = await scene.identity.manage.create_token(other.id, TokenGrant("x", AGENT_DEFAULT))
    revocation = auth_pb2.RevokeTokenRequest(org_id=scene.org_id, token_id=str(scene.identity.token.token_id))

    await scene.service.RevokeToken(revocation, metadata=scene.admin)
    await scene.service.RevokeToken(revocation, metadata=scene.admin)
    refused = await scene.refusal("ValidateToken", asking_for(scene.identity.token), SERVICE_METADATA)
    foreign = {
        await scene.refusal(
            "RevokeToken", auth_pb2.RevokeTokenRequest(org_id=scene.org_id, token_id=str(token_id)), scene.admin
        )
        for token_id in (theirs.token_id, uuid4())
    }

    assert refused[0] is Code.UNAUTHENTICATED
    assert [(code, reason) for code, reason, _ in foreign] == [(Code.PERMISSION_DENIED, "not-found")]
    assert (await scene.validate(theirs)).token_id == str(theirs.token_id)


async def test_tokens_are_listed_in_pages(scene: Scene) -> None:
    """The oldest token is first, and no token comes twice. The response contains no secret and no digest."""
    for number in range(5):
        await scene.token_of(AGENT_DEFAULT, expires_at=datetime(2040, 1, 1, tzinfo=UTC) + timedelta(days=number))
    await scene.identity.manage.revoke_token(scene.identity.org.id, scene.identity.token.token_id)
    stored = list(await scene.identity.manage.tokens(scene.identity.org.id))

    listed, sizes, following = [], [], ""
    while True:
        page = await scene.service.ListTokens(scene.listing(page_size=3, page_token=following), metadata=scene.admin)
        listed += page.tokens
        sizes.append(len(page.tokens))
        following = page.next_page_token
        if not following:
            break

    assert sizes == [3, 3, 1]
    assert [token.token_id for token in listed] == [str(token.id) for token in stored]
    assert listed[0].revoked_at.ToDatetime(UTC) == scene.identity.clock.now()
    assert not listed[1].HasField("revoked_at")
    assert listed[2].expires_at.ToDatetime(UTC) == stored[2].expires_at
    assert all(token.digest not in page.SerializeToString() for token in stored)
    everything = await scene.service.ListTokens(scene.listing(), metadata=scene.admin)
    assert (len(everything.tokens), everything.next_page_token) == (7, "")


async def test_administration_needs_a_token_with_the_permission(scene: Scene) -> None:
    """Missing and invalid tokens, the service credential, missing permissions and foreign organizations are refused."""
    other = await scene.identity.manage.create_organization("other")
    their_admin = await scene.identity.manage.create_token(other.id, TokenGrant("x", ADMIN))
    creator = await scene.token_of(Permission.TOKEN_CREATE)
    revoker = await scene.token_of(Permission.TOKEN_REVOKE)
    create = auth_pb2.CreateTokenRequest(org_id=scene.org_id, name="x")
    revoke = auth_pb2.RevokeTokenRequest(org_id=scene.org_id, token_id=str(scene.identity.token.token_id))
    missing, invalid = (Code.UNAUTHENTICATED, "missing-token"), (Code.UNAUTHENTICATED, "invalid-token")
    denied = (Code.PERMISSION_DENIED, "insufficient-permissions")

    cases = [
        ("CreateToken", create, (), missing),
        ("RevokeToken", revoke, (), missing),
        ("ListTokens", scene.listing(), (), missing),
        ("ListTokens", scene.listing(), SERVICE_METADATA, invalid),
        ("ListTokens", scene.listing(), bearer(PersonalAccessToken.issue(uuid4(), bytes(32)).reveal()), invalid),
        ("CreateToken", create, revoker, denied),
        ("RevokeToken", revoke, creator, denied),
        ("ListTokens", scene.listing(), bearer(scene.identity.token.reveal()), denied),
        ("ListTokens", scene.listing(), bearer(their_admin.reveal()), denied),
    ]
    answers = [(await scene.refusal(method, request, metadata))[:2] for method, request, metadata, _ in cases]

    assert answers == [expected for *_, expected in cases]
    for either in (creator, revoker):
        assert len((await scene.service.ListTokens(scene.listing(), metadata=either)).tokens) == 4
