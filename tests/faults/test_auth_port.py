"""Attacks on auth's gRPC port by clients without a credential. Validation continues for connected proxies."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2

from harness.auth import bearer
from harness.auth_port import MANY, AuthPort, no_message, outcome
from harness.production import SERVICE_TOKEN
from harness.relay import Relay
from ibex.adapters.grpc.call_limits import CallLimits
from ibex.adapters.grpc.connections import MAX_UNAUTHENTICATED_CALLS
from ibex.adapters.grpc.generated import auth_pb2, auth_pb2_grpc
from ibex.adapters.grpc.verifiers import GrpcTokenVerifier
from ibex.adapters.grpc.watch_streams import GrpcWatch
from ibex.adapters.postgres.roles import AUTH_ROLE
from ibex.adapters.system.clock import SystemClock
from ibex.domain.errors import TokenSourceUnavailableError
from ibex.domain.freshness.change_log import StreamStart
from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer

pytestmark = pytest.mark.integration

Code = grpc.StatusCode
PROVE_WITHIN_S = 3.0
WAIT_S = 30.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS_FRAME = b"\0\0\0\x04\0\0\0\0\0"
HALF_HEADERS = b"\0\0\x40\x01\x04\0\0\0\x01half"
WITHOUT_A_CALL = {
    "nothing": b"",
    "half a preface": PREFACE[:10],
    "a preface": PREFACE,
    "a handshake": PREFACE + SETTINGS_FRAME,
    "half a HEADERS frame": PREFACE + SETTINGS_FRAME + HALF_HEADERS,
}
SERVICE = "/ibex.auth.v1.AuthService"
HEALTH = "/grpc.health.v1.Health"


@pytest.fixture(scope="module")
def auth(
    module_postgres: PostgresDatabase, module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AuthPort]:
    """One process for all tests of the module."""
    folder = tmp_path_factory.mktemp("auth")
    limit = {"IBEX_HEADER_TIMEOUT": str(PROVE_WITHIN_S)}
    with AuthPort.running(module_postgres, module_redis.url, folder, **limit) as running:
        yield running


def closed(connection: Any) -> bool:
    """Wait until the server has closed a connection; return whether it has."""
    connection.settimeout(WAIT_S)
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


async def test_silent_connections_beyond_the_limit_close_the_oldest(auth: AuthPort) -> None:
    """A connected proxy stays connected, a new proxy can connect, and no call is counted for a silent connection."""
    async with auth.proxy() as connected:
        await auth.validates(connected)
        before = auth.calls()
        with ExitStack() as held:
            silent = [held.enter_context(auth.connect()) for _ in range(MANY)]
            await auth.unaffected(connected)
            assert await asyncio.to_thread(closed, silent[0])
            more = [held.enter_context(auth.connect()) for _ in range(MANY)]
            await auth.unaffected(connected)
            assert all(await asyncio.to_thread(lambda: [closed(connection) for connection in (*silent, *more)]))

        await auth.unaffected(connected)
    after = auth.calls()
    assert {key: after[key] - before.get(key, 0) for key in after} == {("ValidateToken", "OK"): 6}


async def test_connections_without_a_call_are_closed(auth: AuthPort) -> None:
    """Each is closed after ``IBEX_HEADER_TIMEOUT``. An idle proxy stays connected."""
    async with auth.proxy() as idle:
        with ExitStack() as held:
            silent = {name: held.enter_context(auth.connect(sent)) for name, sent in WITHOUT_A_CALL.items()}
            open_after = [name for name, one in silent.items() if not await asyncio.to_thread(closed, one)]
        await auth.unaffected(idle)

    assert open_after == []


async def test_health_watches_are_unimplemented(auth: AuthPort) -> None:
    """None occupies a call slot, and auth closes the connection after a number of them."""
    request = health_pb2.HealthCheckRequest().SerializeToString()

    async def watch(channel: grpc.aio.Channel) -> Any:
        method: Any = channel.unary_stream(f"{HEALTH}/Watch")
        return await outcome(anext(aiter(method(request, timeout=WAIT_S))))

    async with auth.proxy() as connected, auth.unauthenticated() as channel:
        first = await watch(channel)
        codes = {code for code, _ in await asyncio.gather(*(watch(channel) for _ in range(1_000)))}
        await auth.unaffected(connected)

    assert first[0] is Code.UNIMPLEMENTED
    assert codes <= {Code.UNIMPLEMENTED, Code.UNAVAILABLE}


@pytest.mark.parametrize("method", ["ValidateToken", "ValidateAgent"])
async def test_calls_without_the_credential_fail_before_their_message(auth: AuthPort, method: str) -> None:
    """Auth refuses them before it reads a message, and they occupy no slot of a proxy."""
    async with auth.proxy() as connected, auth.unauthenticated() as channel:
        call: Any = channel.stream_unary(f"{SERVICE}/{method}")
        calls = [outcome(call(no_message(), timeout=WAIT_S)) for _ in range(MAX_UNAUTHENTICATED_CALLS - 1)]
        outcomes = set(await asyncio.gather(*calls))
        await auth.unaffected(connected)

    assert outcomes == {(Code.FAILED_PRECONDITION, "service-credential")}
    assert auth.calls()[method, "FAILED_PRECONDITION"] >= MAX_UNAUTHENTICATED_CALLS - 1


@pytest.mark.parametrize("method", [f"{HEALTH}/Check", f"{SERVICE}/ListTokens"])
async def test_unauthenticated_calls_without_a_message_are_limited(auth: AuthPort, method: str) -> None:
    """A limited number of them wait. Validation, health checks and administration are not blocked."""
    request = auth_pb2.ListTokensRequest(org_id=str(auth.org_id))
    async with auth.proxy() as connected, auth.unauthenticated() as another:
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{auth.port}") for _ in range(6)]
        waiting = []
        for channel in channels:
            call: Any = channel.stream_unary(method)
            waiting += [
                asyncio.create_task(outcome(call(no_message(), timeout=WAIT_S)))
                for _ in range(MAX_UNAUTHENTICATED_CALLS - 1)
            ]
        check: Any = another.unary_unary(f"{HEALTH}/Check")
        await check(b"", timeout=WAIT_S)
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
        await check(b"", timeout=WAIT_S)
        await connected.ping()
        await auth.unaffected(connected)
        listed = await auth_pb2_grpc.AuthServiceStub(another).ListTokens(request, metadata=auth.admin_metadata)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for channel in channels:
            await channel.close()

    assert done
    assert {task.result()[0] for task in done} <= {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE}
    assert len(listed.tokens) == 2


async def test_blocked_administration_does_not_block_validation(
    auth: AuthPort, module_postgres: PostgresDatabase
) -> None:
    """Changes wait for a lock up to a limit, and auth refuses the next one at once.

    Validation has its own connections.
    """
    request = auth_pb2.CreateTokenRequest(org_id=str(auth.org_id), name="x")
    most = CallLimits().administration
    async with auth.proxy() as connected, auth.unauthenticated() as channel:
        service = auth_pb2_grpc.AuthServiceStub(channel)
        await service.ListTokens(auth_pb2.ListTokensRequest(org_id=str(auth.org_id)), metadata=auth.admin_metadata)
        with psycopg.connect(module_postgres.superuser_url) as lock:
            lock.execute("LOCK TABLE tokens IN EXCLUSIVE MODE")
            changes = [
                asyncio.create_task(outcome(service.CreateToken(request, metadata=auth.admin_metadata)))
                for _ in range(2 * most)
            ]
            done, hanging = await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
            await asyncio.gather(*(auth.unaffected(connected) for _ in range(20)))
            await connected.ping()
            refused = {task.result() for task in done}
            lock.rollback()
        await asyncio.gather(*hanging)
        await auth.unaffected(connected)

    assert refused == {(Code.RESOURCE_EXHAUSTED, "too-many-calls")}
    assert len(hanging) >= most


async def test_lookups_of_guessed_administrator_tokens_are_limited(auth: AuthPort) -> None:
    """Auth still serves an administrator whose token it verified recently."""
    request = auth_pb2.ListTokensRequest(org_id=str(auth.org_id))

    def guess() -> Any:
        return bearer(PersonalAccessToken.issue(uuid4(), secrets.token_bytes(32)).reveal())

    async with auth.proxy() as connected, auth.unauthenticated() as channel:
        service = auth_pb2_grpc.AuthServiceStub(channel)
        await service.ListTokens(request, metadata=auth.admin_metadata)
        guesses = [asyncio.create_task(outcome(service.ListTokens(request, metadata=guess()))) for _ in range(200)]
        listed = [await service.ListTokens(request, metadata=auth.admin_metadata) for _ in range(20)]
        await auth.unaffected(connected)
        outcomes = set(await asyncio.gather(*guesses))

    assert outcomes <= {(Code.UNAUTHENTICATED, "invalid-token"), (Code.RESOURCE_EXHAUSTED, "too-many-calls")}
    assert (Code.RESOURCE_EXHAUSTED, "too-many-calls") in outcomes
    assert {len(page.tokens) for page in listed} == {len(listed[0].tokens)}
    assert SERVICE_TOKEN not in "\n".join(auth.process.lines)


async def test_watches_without_the_credential_are_refused(auth: AuthPort) -> None:
    """Auth counts each refusal. The refused watches occupy no slot of a worker."""
    async with auth.proxy() as connected, auth.unauthenticated() as stranger:
        watch: Any = stranger.stream_stream(f"{SERVICE}/Watch")
        calls = [
            outcome(anext(aiter(watch(no_message(), timeout=WAIT_S)))) for _ in range(MAX_UNAUTHENTICATED_CALLS - 1)
        ]
        outcomes = set(await asyncio.gather(*calls))
        async with GrpcWatch(connected).open(None) as stream:
            stream.ping(1)
            first = await asyncio.wait_for(anext(aiter(stream)), WAIT_S)
        await auth.unaffected(connected)

    assert outcomes == {(Code.FAILED_PRECONDITION, "service-credential")}
    assert auth.calls()["Watch", "FAILED_PRECONDITION"] >= MAX_UNAUTHENTICATED_CALLS - 1
    assert isinstance(first, StreamStart)


@pytest.fixture(scope="module")
def relayed(
    module_postgres: PostgresDatabase, module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[AuthPort, Relay]]:
    """Another auth process, which connects to PostgreSQL through a relay."""
    folder = tmp_path_factory.mktemp("relayed")
    with Relay.running(module_postgres.socket) as postgres:
        url = f"postgresql://{AUTH_ROLE}@127.0.0.1:{postgres.port}/{module_postgres.name}"
        with AuthPort.running(module_postgres, module_redis.url, folder, IBEX_AUTH_DATABASE_URL=url) as running:
            yield running, postgres


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_auth_is_degraded_without_postgresql(relayed: tuple[AuthPort, Relay], how: str) -> None:
    """Auth stays ready: proxies serve cached tokens because auth reports that PostgreSQL is unavailable."""
    auth, postgres = relayed
    unavailable = ("ValidateToken", "UNAVAILABLE")
    before = auth.calls().get(unavailable, 0)
    async with auth.proxy() as connected:
        await auth.validates(connected)
        await asyncio.to_thread(postgres.cut if how == "cut" else postgres.stall)
        with pytest.raises(TokenSourceUnavailableError):
            await GrpcTokenVerifier(connected, SystemClock()).verify(auth.token)
        during = await asyncio.to_thread(auth.readiness)
        await asyncio.to_thread(postgres.heal)
        await asyncio.to_thread(auth.wait_until_ready)
        await auth.unaffected(connected)
    calls = auth.calls()

    assert during[:2] == (200, "degraded")
    assert during[2]["postgres"] in {"failed", "timeout"}
    assert during[2]["redis"] == "ok"
    assert calls[unavailable] - before == 1
