"""The auth service through real sockets: every method and every status."""

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
    """An auth server with its identity."""
    identity, observer = await Identity.settled(), Recorder()
    async with serving(identity, observer=observer) as server, stub(server.port) as service:
        yield Scene(identity, server, service, observer)


async def test_a_live_token_has_its_principal(scene: Scene) -> None:
    """Bindings of the token are present, others absent. An absent limit differs from a limit of 0."""
    identity = scene.identity

    bound, free = await scene.validate(identity.token), await scene.validate(identity.admin)

    assert (bound.org_id, bound.token_id) == (str(identity.org.id), str(identity.token.token_id))
    assert (bound.agent_id, bound.permissions, bound.rate_limit_rpm) == (str(identity.agent.id), int(AGENT_DEFAULT), 60)
    assert free.permissions == int(ADMIN)
    assert not any(free.HasField(name) for name in ("user_id", "agent_id", "remaining"))


async def test_every_invalid_token_gets_the_same_response(scene: Scene) -> None:
    """This covers malformed, unknown, revoked and expired tokens, a wrong secret, and a suspended organization."""
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


async def test_an_agent_belongs_to_the_organization(scene: Scene) -> None:
    """An unknown agent and another organization's get the same refusal, never NOT_FOUND."""
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
    """The credential is missing, wrong, repeated, or has no scheme. The call is refused before any lookup."""
    refusals = [
        await scene.refusal("ValidateToken", asking_for(scene.identity.token), metadata),
        await scene.refusal("ValidateAgent", asking_about(scene.org_id, scene.identity.agent.id), metadata),
    ]

    assert [(code, reason) for code, reason, _ in refusals] == [(Code.FAILED_PRECONDITION, "service-credential")] * 2
    assert scene.identity.store.finds == 0


async def test_a_server_without_a_credential_requires_none() -> None:
    """The settings decide whether a server may run without one."""
    identity = await Identity.settled()
    async with serving(identity, security=ServerSecurity()) as server, stub(server.port) as service:
        response = await service.ValidateToken(asking_for(identity.token))

    assert response.token_id == str(identity.token.token_id)


@pytest.mark.parametrize("error", [ServiceDegradedError("canary"), ServiceDegradedError()])
async def test_a_lost_database_is_reported(scene: Scene, error: Exception) -> None:
    """The status is UNAVAILABLE with auth's own reason. It does not reveal the text of the database's error."""
    scene.identity.store.error = error

    refusals = {
        await scene.refusal("ValidateToken", asking_for(scene.identity.token), SERVICE_METADATA),
        await scene.refusal("ValidateAgent", asking_about(scene.org_id, uuid4()), SERVICE_METADATA),
        await scene.refusal("ListTokens", scene.listing(), scene.admin),
    }

    assert refusals == {
        (Code.UNAVAILABLE, "source-unavailable", "The identity database is temporarily unavailable. Retry later.")
    }


async def test_an_unexpected_exception_reveals_nothing(scene: Scene) -> None:
    """The observer gets the raised error; the caller gets none of its text."""
    scene.identity.store.error = RuntimeError("canary")

    refusal = await scene.refusal("ValidateToken", asking_for(scene.identity.token), SERVICE_METADATA)

    assert refusal == (Code.INTERNAL, "internal", InternalError.default_message)
    assert scene.observer.failures == [scene.identity.store.error]
    assert scene.observer.calls == [("ValidateToken", "INTERNAL")]


async def test_a_call_that_takes_too_long_is_cancelled() -> None:
    """This covers callers without a deadline. The lookup is cancelled."""
    identity = await Identity.settled()
    identity.store.hangs = True
    limits = ServerLimits(max_call_s=0.02, stop_grace_s=0)
    async with serving(identity, limits=limits) as server, stub(server.port) as service:
        scene = Scene(identity, server, service, Recorder())
        refusal = await scene.refusal("ValidateToken", asking_for(identity.token), SERVICE_METADATA)

    assert refusal[:2] == (Code.DEADLINE_EXCEEDED, "deadline")
    assert identity.store.abandoned.is_set()


async def test_a_source_that_does_not_answer_is_reported_before_the_deadline(scene: Scene) -> None:
    """The caller can then serve cached identity. The lookup is cancelled."""
    scene.identity.store.hangs = True

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await scene.service.ValidateToken(asking_for(scene.identity.token), timeout=2, metadata=SERVICE_METADATA)

    assert raised.value.code() is Code.UNAVAILABLE
    assert (raised.value.trailing_metadata() or {}).get("ibex-reason") == "source-unavailable"
    await scene.identity.store.abandoned.wait()
    assert scene.observer.calls == [("ValidateToken", "UNAVAILABLE")]


async def test_a_caller_that_disconnects_cancels_the_lookup(scene: Scene) -> None:
    """The lookup is cancelled once its caller has disconnected."""
    scene.identity.store.hangs = True

    call = scene.service.ValidateToken(asking_for(scene.identity.token), metadata=SERVICE_METADATA)
    await scene.identity.store.asked.wait()
    call.cancel()

    await scene.identity.store.abandoned.wait()
    await scene.observer.one_ended.wait()
    assert scene.observer.calls == [("ValidateToken", "CANCELLED")]


async def test_calls_beyond_the_limit_are_refused() -> None:
    """They are refused at once, before any lookup."""
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
    """The server refuses it before it reads it."""
    request = auth_pb2.ValidateTokenRequest(access_token="x" * 70_000)

    assert (await scene.refusal("ValidateToken", request, SERVICE_METADATA))[:2] == (Code.RESOURCE_EXHAUSTED, "None")


async def test_a_malformed_message_is_refused(scene: Scene) -> None:
    """The status is INVALID_ARGUMENT, not INTERNAL."""
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{scene.server.port}") as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/ValidateToken")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"\xff\xff", metadata=SERVICE_METADATA)

    assert raised.value.code() is Code.INVALID_ARGUMENT
    assert scene.observer.failures == []


async def test_a_request_id_is_kept_or_created(scene: Scene) -> None:
    """A UUID is returned unchanged. Anything else is replaced by a new id, also in a refusal."""
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
async def test_an_invalid_field_is_named(scene: Scene, method: str, request_message: Any, field: str) -> None:
    """The response names the wrong field. Only the caller has been looked up."""
    if field != "org_id" and method != "ValidateAgent":
        request_message.org_id = scene.org_id
    metadata = SERVICE_METADATA if method == "ValidateAgent" else scene.admin

    code, reason, message = await scene.refusal(method, request_message, metadata)

    assert (code, reason) == (Code.INVALID_ARGUMENT, "invalid-argument")
    assert message.startswith(f"{field}: must")


async def test_health_needs_no_credential(scene: Scene) -> None:
    """The server and the service are SERVING, another service is NOT_FOUND, and a wrong credential is refused."""
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
    """The observer does not get it."""
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{scene.server.port}") as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"")

    assert raised.value.code() is Code.UNIMPLEMENTED
    assert scene.observer.calls == []


async def test_a_draining_server_answers_calls_but_does_not_report_serving(scene: Scene) -> None:
    """A proxy that has not moved to another replica yet loses no call."""
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{scene.server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        scene.server.begin_to_drain()
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING

    assert (await scene.validate(scene.identity.token)).token_id == str(scene.identity.token.token_id)


async def test_stopping_lets_a_call_finish() -> None:
    """The response arrives within the grace period. Then the port is closed. Stopping is idempotent."""
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


async def test_stopping_cancels_calls_that_do_not_finish() -> None:
    """The call is cancelled after the grace period, and so is its lookup."""
    identity = await Identity.settled()
    identity.store.hangs = True
    async with serving(identity, limits=ServerLimits(stop_grace_s=0.02)) as server, stub(server.port) as service:
        call = service.ValidateToken(asking_for(identity.token), metadata=SERVICE_METADATA)
        await identity.store.asked.wait()
        await server.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await identity.store.abandoned.wait()


async def test_a_port_in_use_is_refused() -> None:
    """Two servers never share a port."""
    identity = await Identity.settled()
    async with serving(identity) as first:
        with pytest.raises(OSError, match=str(first.port)):
            async with serving(identity, port=first.port):
                pass


async def test_a_principal_has_its_organizations_limit(scene: Scene) -> None:
    """An absent limit means the default; 0 means unlimited."""
    limits = []
    for name, limit in (("default", None), ("unlimited", 0)):
        organization = await scene.identity.manage.create_organization(name, limit)
        token = await scene.identity.manage.create_token(organization.id, TokenGrant("x", AGENT_DEFAULT))
        seen = await scene.validate(token)
        limits.append(seen.rate_limit_rpm if seen.HasField("rate_limit_rpm") else None)

    assert limits == [None, 0]
