"""The auth service through real sockets: every method, every status."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness.auth import CREDENTIAL, LOOPBACK, REQUEST_ID, Identity, bearer, serving, stub
from harness.auth_scene import SERVICE_METADATA, Code, Recorder, Scene, asking_about, asking_for
from ibex.adapters.grpc.call_limits import CallLimits
from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.server import ServerLimits, ServerSecurity
from ibex.adapters.grpc.service import SERVICE
from ibex.domain.errors import InternalError, InvalidTokenError, ServiceDegradedError
from ibex.domain.identity.management import OrganizationStatus, TokenGrant
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Everything in place."""
    identity, observer = await Identity.settled(), Recorder()
    async with serving(identity, observer=observer) as server, stub(server.port) as service:
        yield Scene(identity, server, service, observer)


async def test_a_live_token_is_its_principal(scene: Scene) -> None:
    """What is bound is there, what is not is absent, a limit of none is not 0."""
    identity = scene.identity

    bound, free = await scene.validate(identity.token), await scene.validate(identity.admin)

    assert (bound.org_id, bound.token_id) == (str(identity.org.id), str(identity.token.token_id))
    assert (bound.agent_id, bound.permissions, bound.rate_limit_rpm) == (str(identity.agent.id), int(AGENT_DEFAULT), 60)
    assert free.permissions == int(ADMIN)
    assert not any(free.HasField(name) for name in ("user_id", "agent_id", "remaining"))


async def test_whatever_is_wrong_with_a_token_is_answered_alike(scene: Scene) -> None:
    """Malformed, unknown, another secret, revoked, expired, of a suspended organization: one status, one message."""
    identity = scene.identity
    soon = identity.clock.now() + timedelta(seconds=1)
    expiring, revoked = [
        await identity.manage.create_token(identity.org.id, TokenGrant("x", AGENT_DEFAULT, expires_at=soon))
        for _ in range(2)
    ]
    await identity.manage.revoke_token(identity.org.id, revoked.token_id)
    identity.clock.advance(timedelta(seconds=1))
    suspended = await identity.manage.create_organization("suspended")
    their = await identity.manage.create_token(suspended.id, TokenGrant("x", AGENT_DEFAULT))
    await identity.manage.set_organization_status(suspended.id, OrganizationStatus.SUSPENDED)
    unknown = PersonalAccessToken.issue(uuid4(), bytes(32))
    other_secret = PersonalAccessToken.issue(identity.token.token_id, bytes(32))

    texts = [token.reveal() for token in (expiring, revoked, their, unknown, other_secret)]
    answers = {
        await scene.refusal("ValidateToken", auth_pb2.ValidateTokenRequest(access_token=text), SERVICE_METADATA)
        for text in ("", "garbage", identity.token.reveal()[:-1] + "!", *texts)
    }

    assert answers == {(Code.UNAUTHENTICATED, "invalid-token", InvalidTokenError.default_message)}


async def test_an_agent_is_the_organizations_own(scene: Scene) -> None:
    """A missing one and another organization's are refused alike, never as not found."""
    identity = scene.identity
    other = await identity.manage.create_organization("other")
    theirs = await identity.manage.create_agent(other.id, "theirs")

    answer = await scene.service.ValidateAgent(
        asking_about(identity.org.id, identity.agent.id), metadata=SERVICE_METADATA
    )
    refusals = {
        await scene.refusal("ValidateAgent", asking_about(identity.org.id, agent_id), SERVICE_METADATA)
        for agent_id in (theirs.id, uuid4())
    }

    assert (answer.org_id, answer.agent_id) == (str(identity.org.id), str(identity.agent.id))
    assert answer.status == auth_pb2.AGENT_STATUS_ACTIVE
    assert [(code, reason) for code, reason, _ in refusals] == [(Code.PERMISSION_DENIED, "agent-not-authorized")]


@pytest.mark.parametrize("metadata", [(), bearer("wrong"), SERVICE_METADATA * 2, (("authorization", CREDENTIAL),)])
async def test_without_the_service_credential_nothing_is_validated(scene: Scene, metadata: Any) -> None:
    """Missing, wrong, twice, without its scheme: it is the caller that is refused, and nobody is looked up."""
    refusals = [
        await scene.refusal("ValidateToken", asking_for(scene.identity.token), metadata),
        await scene.refusal("ValidateAgent", asking_about(scene.org_id, scene.identity.agent.id), metadata),
    ]

    assert [(code, reason) for code, reason, _ in refusals] == [(Code.FAILED_PRECONDITION, "service-credential")] * 2
    assert scene.identity.store.finds == 0


async def test_a_server_without_a_credential_asks_for_none() -> None:
    """Whether that may be so is the settings' to say."""
    identity = await Identity.settled()
    async with serving(identity, security=ServerSecurity()) as server, stub(server.port) as service:
        response = await service.ValidateToken(asking_for(identity.token))

    assert response.token_id == str(identity.token.token_id)


@pytest.mark.parametrize("error", [ServiceDegradedError("canary"), ServiceDegradedError()])
async def test_a_lost_store_is_said_to_be(scene: Scene, error: Exception) -> None:
    """UNAVAILABLE with the reason that only the service itself can give; the store's words stay inside."""
    scene.identity.store.error = error

    refusals = {
        await scene.refusal("ValidateToken", asking_for(scene.identity.token), SERVICE_METADATA),
        await scene.refusal("ValidateAgent", asking_about(scene.org_id, uuid4()), SERVICE_METADATA),
        await scene.refusal("ListTokens", scene.listing(), scene.admin),
    }

    assert refusals == {
        (Code.UNAVAILABLE, "source-unavailable", "The identity database is temporarily unavailable. Retry later.")
    }


async def test_nothing_of_a_bug_leaks(scene: Scene) -> None:
    """What was raised is told to the observer and to nobody else."""
    scene.identity.store.error = RuntimeError("canary")

    refusal = await scene.refusal("ValidateToken", asking_for(scene.identity.token), SERVICE_METADATA)

    assert refusal == (Code.INTERNAL, "internal", InternalError.default_message)
    assert scene.observer.failures == [scene.identity.store.error]
    assert scene.observer.calls == [("ValidateToken", "INTERNAL")]


async def test_a_call_that_takes_too_long_is_given_up() -> None:
    """Also where the caller would wait for ever; the store's work is cancelled."""
    identity = await Identity.settled()
    identity.store.hangs = True
    limits = ServerLimits(max_call_s=0.02, stop_grace_s=0)
    async with serving(identity, limits=limits) as server, stub(server.port) as service:
        scene = Scene(identity, server, service, Recorder())
        refusal = await scene.refusal("ValidateToken", asking_for(identity.token), SERVICE_METADATA)

    assert refusal[:2] == (Code.DEADLINE_EXCEEDED, "deadline")
    assert identity.store.abandoned.is_set()


async def test_a_source_that_does_not_answer_is_said_before_the_callers_deadline(scene: Scene) -> None:
    """A caller that hears so may serve what it has cached. The store is not kept busy."""
    scene.identity.store.hangs = True

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await scene.service.ValidateToken(asking_for(scene.identity.token), timeout=2, metadata=SERVICE_METADATA)

    assert raised.value.code() is Code.UNAVAILABLE
    assert (raised.value.trailing_metadata() or {}).get("ibex-reason") == "source-unavailable"
    await scene.identity.store.abandoned.wait()
    assert scene.observer.calls == [("ValidateToken", "UNAVAILABLE")]


async def test_a_caller_that_goes_ends_the_work(scene: Scene) -> None:
    """Once nobody waits for the answer the store is not kept busy."""
    scene.identity.store.hangs = True

    call = scene.service.ValidateToken(asking_for(scene.identity.token), metadata=SERVICE_METADATA)
    await scene.identity.store.asked.wait()
    call.cancel()

    await scene.identity.store.abandoned.wait()
    await scene.observer.one_ended.wait()
    assert scene.observer.calls == [("ValidateToken", "CANCELLED")]


async def test_more_calls_than_the_server_takes_are_refused() -> None:
    """At once, and before anything is looked up."""
    identity = await Identity.settled()
    identity.store.hangs = True
    limits = ServerLimits(CallLimits(validation=1), stop_grace_s=0)
    async with serving(identity, limits=limits) as server, stub(server.port) as service:
        first = service.ValidateToken(asking_for(identity.token), metadata=SERVICE_METADATA)
        await identity.store.asked.wait()
        scene = Scene(identity, server, service, Recorder())
        refusal = await scene.refusal("ValidateToken", asking_for(identity.token), SERVICE_METADATA)
        first.cancel()

    assert refusal[:2] == (Code.RESOURCE_EXHAUSTED, "too-many-calls")


async def test_a_message_that_is_too_large_is_refused(scene: Scene) -> None:
    """Before it is read."""
    request = auth_pb2.ValidateTokenRequest(access_token="x" * 70_000)

    assert (await scene.refusal("ValidateToken", request, SERVICE_METADATA))[:2] == (Code.RESOURCE_EXHAUSTED, "None")


async def test_a_message_that_cannot_be_read_is_refused(scene: Scene) -> None:
    """As the caller's fault, not as a bug."""
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{scene.server.port}") as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/ValidateToken")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"\xff\xff", metadata=SERVICE_METADATA)

    assert raised.value.code() is Code.INVALID_ARGUMENT
    assert scene.observer.failures == []


async def test_a_request_id_is_kept_or_made(scene: Scene) -> None:
    """A UUID comes back as it came; for anything else there is a new one, also where the call is refused."""
    request = asking_for(scene.identity.token)
    returned = []
    for given in (str(REQUEST_ID), "not a uuid", ""):
        call = scene.service.ValidateToken(request, metadata=(*SERVICE_METADATA, ("x-request-id", given)))
        await call
        returned.append((await call.trailing_metadata()).get("x-request-id"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await scene.service.ValidateToken(request, metadata=(("x-request-id", str(REQUEST_ID)),))

    assert returned == [str(request_id) for request_id in scene.observer.began_ids[:3]]
    assert returned[0] == str(REQUEST_ID)
    assert len(set(returned)) == 3
    assert raised.value.trailing_metadata().get("x-request-id") == str(REQUEST_ID)


@pytest.mark.parametrize(
    ("method", "request_message", "field"),
    [
        ("ValidateAgent", auth_pb2.ValidateAgentRequest(org_id="x", agent_id=str(uuid4())), "org_id"),
        ("ValidateAgent", auth_pb2.ValidateAgentRequest(org_id=str(uuid4()), agent_id="\0"), "agent_id"),
        ("CreateToken", auth_pb2.CreateTokenRequest(org_id="", name="x"), "org_id"),
        ("CreateToken", auth_pb2.CreateTokenRequest(name="", permissions=0), "name"),
        ("CreateToken", auth_pb2.CreateTokenRequest(name="a\0b"), "name"),
        ("CreateToken", auth_pb2.CreateTokenRequest(name="x" * 129), "name"),
        ("CreateToken", auth_pb2.CreateTokenRequest(name="x", permissions=1 << 56), "permissions"),
        ("CreateToken", auth_pb2.CreateTokenRequest(name="x", user_id=""), "user_id"),
        ("CreateToken", auth_pb2.CreateTokenRequest(name="x", agent_id="me"), "agent_id"),
        ("CreateToken", auth_pb2.CreateTokenRequest(name="x", expires_at=Timestamp(seconds=1 << 60)), "expires_at"),
        ("CreateToken", auth_pb2.CreateTokenRequest(name="x", expires_at=Timestamp(nanos=-1)), "expires_at"),
        ("RevokeToken", auth_pb2.RevokeTokenRequest(token_id="x"), "token_id"),
        ("ListTokens", auth_pb2.ListTokensRequest(page_size=201), "page_size"),
        ("ListTokens", auth_pb2.ListTokensRequest(page_token="x"), "page_token"),
        ("ListTokens", auth_pb2.ListTokensRequest(page_token="f" * 32), "page_token"),
    ],
)
async def test_a_wrong_field_is_named(scene: Scene, method: str, request_message: Any, field: str) -> None:
    """The answer says which field is wrong; nobody is looked up for it but the caller."""
    if field != "org_id" and method != "ValidateAgent":
        request_message.org_id = scene.org_id
    metadata = SERVICE_METADATA if method == "ValidateAgent" else scene.admin

    code, reason, message = await scene.refusal(method, request_message, metadata)

    assert (code, reason) == (Code.INVALID_ARGUMENT, "invalid-argument")
    assert message.startswith(f"{field}: must")


async def test_health_is_told_to_everybody(scene: Scene) -> None:
    """The server and the service serve; a service that nobody knows is not found; a wrong credential is told so."""
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{scene.server.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answers = [await health.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("", SERVICE)]
        right = await health.Check(health_pb2.HealthCheckRequest(), metadata=SERVICE_METADATA)
        codes = []
        for name, metadata in (("nobody", ()), (SERVICE, bearer("wrong"))):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await health.Check(health_pb2.HealthCheckRequest(service=name), metadata=metadata)
            codes.append(raised.value.code())

    assert {answer.status for answer in (*answers, right)} == {health_pb2.HealthCheckResponse.SERVING}
    assert codes == [Code.NOT_FOUND, Code.FAILED_PRECONDITION]


async def test_an_unknown_method_is_unimplemented(scene: Scene) -> None:
    """Nobody hears of it."""
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{scene.server.port}") as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"")

    assert raised.value.code() is Code.UNIMPLEMENTED
    assert scene.observer.calls == []


async def test_stopping_lets_a_call_finish() -> None:
    """Within the grace the answer arrives; afterwards nobody listens. Stopping again does nothing."""
    identity = await Identity.settled()
    identity.store.hangs = True
    async with serving(identity, limits=ServerLimits(stop_grace_s=20)) as server, stub(server.port) as service:
        call = service.ValidateToken(asking_for(identity.token), metadata=SERVICE_METADATA)
        await identity.store.asked.wait()
        stopping = asyncio.create_task(server.stop())
        identity.store.released.set()
        response = await call
        await stopping
        await server.stop()
        async with stub(server.port) as late:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await late.ValidateToken(asking_for(identity.token), metadata=SERVICE_METADATA)

    assert response.token_id == str(identity.token.token_id)
    assert refused.value.code() is Code.UNAVAILABLE


async def test_stopping_cancels_what_does_not_finish() -> None:
    """After the grace; the store is let go."""
    identity = await Identity.settled()
    identity.store.hangs = True
    async with serving(identity, limits=ServerLimits(stop_grace_s=0.02)) as server, stub(server.port) as service:
        call = service.ValidateToken(asking_for(identity.token), metadata=SERVICE_METADATA)
        await identity.store.asked.wait()
        await server.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await identity.store.abandoned.wait()


async def test_a_taken_port_is_refused() -> None:
    """Two servers never share one."""
    identity = await Identity.settled()
    async with serving(identity) as first:
        with pytest.raises(OSError, match=str(first.port)):
            async with serving(identity, port=first.port):
                pass


async def test_an_organizations_limit_comes_along(scene: Scene) -> None:
    """Absent is the deployment's default, 0 is unlimited."""
    limits = []
    for name, limit in (("default", None), ("unlimited", 0)):
        organization = await scene.identity.manage.create_organization(name, limit)
        token = await scene.identity.manage.create_token(organization.id, TokenGrant("x", AGENT_DEFAULT))
        seen = await scene.validate(token)
        limits.append(seen.rate_limit_rpm if seen.HasField("rate_limit_rpm") else None)

    assert limits == [None, 0]
