"""The channel to auth: deadlines, limits, and outages of auth."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest

from harness.auth import (
    CREDENTIAL,
    LOOPBACK,
    PATIENT_S,
    REQUEST_ID,
    AuthProcess,
    Identity,
    asking,
    cannot_be_checked,
    serving,
    until_answered,
)
from harness.servers import free_port
from ibex.adapters.grpc.channel import CredentialRefusedError, GrpcAuthChannel
from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.server import ServerLimits
from ibex.adapters.grpc.statuses import CallFailedError
from ibex.adapters.grpc.verifiers import GrpcTokenVerifier
from ibex.domain.errors import (
    InvalidTokenError,
    ServiceDegradedError,
    TokenSourceUnavailableError,
)
from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 0.05
NOTICEABLY_LATE_S = 1.0  # generous: what would otherwise be waited for is many seconds


@pytest.fixture
async def identity() -> Identity:
    """The identity that the server serves."""
    return await Identity.settled()


@pytest.fixture
def process() -> Any:
    """The service in a separate process, with the same identity."""
    started = AuthProcess(free_port())
    yield started
    started.kill()


class LogLines(logging.Handler):
    """The channel's log lines. A test can wait for each."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line."""
        self._lines.put_nowait(record.getMessage())

    async def __call__(self, line: str) -> None:
        """Wait for a line that no earlier call has returned."""
        while await self._lines.get() != line:
            pass


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[LogLines]:
    """The log lines of the test."""
    caplog.set_level(logging.INFO)
    lines, logger = LogLines(), logging.getLogger("ibex.adapters.grpc.replicas")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


async def test_ping_finds_the_service(identity: Identity) -> None:
    """It succeeds while the server runs, even if its database is down. It fails once the server has stopped."""
    async with serving(identity) as server, asking(server.port) as channel:
        await channel.ping()
        identity.store.error = ServiceDegradedError()
        await channel.ping()
        await server.stop()
        with pytest.raises(ServiceDegradedError, match="reached"):
            await channel.ping()


@pytest.mark.parametrize("credential", [None, "wrong"])
async def test_a_refused_credential_is_an_outage(
    identity: Identity, credential: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It proves nothing about the token. It is logged once, without the credential."""
    async with serving(identity) as server, asking(server.port, credential=credential) as channel:
        await cannot_be_checked(channel, identity)
        await cannot_be_checked(channel, identity)

    # gRPC may log here a late event for the closed event loop of an earlier test.
    own = [record for record in caplog.records if record.name.startswith("ibex.")]
    lines = [record.getMessage() for record in own if record.levelno == logging.ERROR]
    assert lines == ["auth refuses the service credential; the proxy must present the one that auth is started with"]


async def test_ping_finds_a_wrong_credential(identity: Identity) -> None:
    """A proxy with a wrong credential serves no request, so it must not be ready."""
    async with serving(identity) as server, asking(server.port, credential="wrong") as channel:
        with pytest.raises(CredentialRefusedError, match="credential"):
            await channel.ping()


async def test_every_call_has_the_requests_id(identity: Identity) -> None:
    """It is the id that the channel's callback returns."""
    seen: list[UUID] = []

    class Recorder:
        def began(self, request_id: UUID) -> None:
            seen.append(request_id)

        def failed(self, error: BaseException) -> None:
            raise AssertionError from error

        def ended(self, method: str, status: str, duration_ns: int) -> None:
            assert (method, status) == ("ValidateToken", "OK")
            assert duration_ns >= 0

    async with serving(identity, observer=Recorder()) as server, asking(server.port) as channel:
        await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)

    assert seen == [REQUEST_ID]


async def test_a_store_that_hangs_ends_the_call_in_time(identity: Identity) -> None:
    """Auth reports before the deadline that its database does not answer. The next request succeeds."""
    async with serving(identity) as server, asking(server.port, timeout_s=PATIENT_S) as channel:
        await until_answered(channel, identity.token)
        identity.store.hangs = True
        started = time.monotonic()
        with pytest.raises(TokenSourceUnavailableError):
            await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)
        took_s = time.monotonic() - started
        await identity.store.abandoned.wait()
        identity.store.hangs = False
        await until_answered(channel, identity.token)

    assert PATIENT_S / 2 <= took_s < PATIENT_S


async def test_calls_beyond_the_bound_fail_at_once(identity: Identity) -> None:
    """No call is queued. A call that ends, in any way, makes room."""
    identity.store.hangs = True
    async with serving(identity) as server, asking(server.port, max_in_flight=2) as channel:
        verifier = GrpcTokenVerifier(channel, identity.clock)
        calls = [asyncio.create_task(verifier.verify(identity.token)) for _ in range(2)]
        await identity.store.asked.wait()
        await cannot_be_checked(channel, identity)
        assert identity.store.finds <= 2
        calls[0].cancel()
        await asyncio.wait(calls[:1])
        identity.store.hangs = False
        await verifier.verify(identity.token)
        identity.store.released.set()
        await calls[1]

    assert calls[0].cancelled()


async def test_closing_fails_calls_in_flight(identity: Identity) -> None:
    """They fail with an outage; the caller is not cancelled. Closing is idempotent, and opening again works."""
    identity.store.hangs = True
    async with serving(identity) as server, asking(server.port) as channel:
        call = asyncio.create_task(GrpcTokenVerifier(channel, identity.clock).verify(identity.token))
        await identity.store.asked.wait()
        await channel.close()
        await channel.close()
        with pytest.raises(ServiceDegradedError):
            await call
        await cannot_be_checked(channel, identity)
        identity.store.hangs = False
        await channel.open()
        await channel.open()
        await until_answered(channel, identity.token)


async def test_without_a_server_calls_fail_at_once(identity: Identity) -> None:
    """No call waits for the deadline. Once a server listens there, the channel connects by itself."""
    async with serving(identity) as server:
        port = server.port
    async with asking(port, timeout_s=30) as channel:
        took_s = await cannot_be_checked(channel, identity)
        async with serving(identity, port=port):
            await until_answered(channel, identity.token)

    assert took_s < NOTICEABLY_LATE_S


async def test_the_channel_reconnects_to_a_restarted_server(process: AuthProcess, identity: Identity) -> None:
    """It connects to the same port by itself. Until then, every call fails as an outage."""
    async with asking(process.port, timeout_s=1) as channel:
        await until_answered(channel, identity.token)
        process.kill()
        await cannot_be_checked(channel, identity)
        again = AuthProcess(process.port)
        try:
            async with asyncio.timeout(10):
                await channel.connected()
            principal = await until_answered(channel, identity.token)
        finally:
            again.kill()

    assert principal.org_id == identity.org.id


async def test_calls_to_a_server_that_hangs_fail_at_the_deadline(process: AuthProcess, identity: Identity) -> None:
    """Every call fails in time while the server is stopped. The next call succeeds once the server continues."""
    async with asking(process.port, timeout_s=DEADLINE_S) as channel:
        await until_answered(channel, identity.token)
        process.signal(signal.SIGSTOP)
        took_s = [await cannot_be_checked(channel, identity) for _ in range(5)]
        process.signal(signal.SIGCONT)
        await until_answered(channel, identity.token)

    assert max(took_s) < NOTICEABLY_LATE_S


async def test_a_connection_that_hangs_is_closed(process: AuthProcess, identity: Identity, logged: LogLines) -> None:
    """The channel closes it within seconds, even without a call and while connecting, and recovers by itself."""
    async with asking(process.port, timeout_s=DEADLINE_S) as channel:
        await until_answered(channel, identity.token)
        process.signal(signal.SIGSTOP)
        async with asyncio.timeout(10):
            await logged(f"cannot connect to auth at 127.0.0.1:{process.port}")
        assert await cannot_be_checked(channel, identity) < NOTICEABLY_LATE_S
        process.signal(signal.SIGCONT)
        async with asyncio.timeout(5):
            await until_answered(channel, identity.token)


async def test_an_idle_connection_stays_open(identity: Identity, logged: LogLines) -> None:
    """The server accepts the pings of the client. By default it would close the connection."""
    async with serving(identity) as server, asking(server.port):
        connected = f"connected to auth at {LOOPBACK}:{server.port}"
        await logged(connected)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):  # by default, the server closes the connection after a few pings
                await logged(connected)


async def a_liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer everything with HTTP 401, as a wrong address might."""
    await reader.read(64)
    writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def test_another_server_at_the_address_is_an_outage(identity: Identity) -> None:
    """The status does not matter: only auth can prove that a token is invalid."""
    other = await asyncio.start_server(a_liar, LOOPBACK, 0)
    async with other, asking(other.sockets[0].getsockname()[1], timeout_s=0.5) as channel:
        await cannot_be_checked(channel, identity)


@pytest.mark.parametrize("status", list(grpc.StatusCode)[1:], ids=lambda status: status.name)
async def test_a_status_without_its_reason_is_an_outage(identity: Identity, status: grpc.StatusCode) -> None:
    """This covers every status that an HTTP proxy in between could cause."""

    async def refuse(_request: bytes, context: Any) -> bytes:
        await context.abort(status, "made on the way")
        return b""

    handler: Any = grpc.unary_unary_rpc_method_handler(refuse)
    server = grpc.aio.server()
    names = ("ValidateToken", "ValidateAgent")
    server.add_registered_method_handlers("ibex.auth.v1.AuthService", dict.fromkeys(names, handler))
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    async with asking(port) as channel:
        await cannot_be_checked(channel, identity)
    await server.stop(0)


async def test_no_secret_is_in_a_log_or_an_error(
    identity: Identity, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """This covers tokens and credentials, every end of a call, every cause of an error, and gRPC's own log."""
    caplog.set_level(logging.DEBUG)
    unknown = PersonalAccessToken.issue(UUID(int=7), b"c" * 32)
    secrets = [token.reveal()[-49:] for token in (identity.token, unknown)] + [CREDENTIAL]
    told: list[str] = []

    async def verify(channel: GrpcAuthChannel, token: PersonalAccessToken) -> None:
        try:
            told.append(repr(await GrpcTokenVerifier(channel, identity.clock).verify(token)))
        except (InvalidTokenError, ServiceDegradedError) as error:
            cause: BaseException | None = error
            while cause is not None:
                told.extend((str(cause), repr(cause), repr(vars(cause))))
                cause = cause.__cause__ or cause.__context__

    async with serving(identity) as server, asking(server.port, timeout_s=0.2) as channel:
        told.extend((repr(channel), repr(server)))
        await verify(channel, identity.token)
        await verify(channel, unknown)
        for trouble in (ServiceDegradedError("x"), RuntimeError("x")):
            identity.store.error = trouble
            await verify(channel, identity.token)
        identity.store.error, identity.store.hangs = None, True
        await verify(channel, identity.token)
        await server.stop()
        await verify(channel, identity.token)
    async with serving(identity) as server, asking(server.port, credential="wrong") as channel:
        await verify(channel, identity.token)

    told += [record.getMessage() + str(record.exc_text) for record in caplog.records]
    told += capfd.readouterr()
    assert len(told) > 20
    assert [text for text in told if any(secret in text for secret in secrets)] == []


async def test_an_invalid_response_is_an_outage(identity: Identity) -> None:
    """A newer or a broken auth may send such a response."""
    bodies = iter([auth_pb2.ValidateTokenResponse(org_id="x").SerializeToString(), b"\xff\xff"])

    async def answer(_request: bytes, _context: Any) -> bytes:
        return next(bodies)

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_registered_method_handlers("ibex.auth.v1.AuthService", {"ValidateToken": handler})
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    async with asking(port) as channel:
        for _ in range(2):
            with pytest.raises(ServiceDegradedError):
                await GrpcTokenVerifier(channel, identity.clock).verify(identity.token)
    await server.stop(0)


async def test_a_channel_that_is_not_open_fails_calls() -> None:
    """They fail as unavailable, without a reason."""
    closed = GrpcAuthChannel(f"{LOOPBACK}:1", lambda: REQUEST_ID)
    with pytest.raises(CallFailedError) as raised:
        await closed.validate_agent(auth_pb2.ValidateAgentRequest())

    assert (raised.value.status, raised.value.reason) == (grpc.StatusCode.UNAVAILABLE, None)
    with pytest.raises(ServiceDegradedError):
        await closed.ping()


async def test_connections_that_reach_their_maximum_age_fail_no_call() -> None:
    """The server ends connections again and again. Every call before, during and after that succeeds."""
    identity, age_s = await Identity.settled(), 0.2
    limits = ServerLimits(max_connection_age_s=age_s, stop_grace_s=0)
    async with serving(identity, limits=limits) as server, asking(server.port) as channel:
        verifier = GrpcTokenVerifier(channel, identity.clock)
        used: set[int] = set()
        async with asyncio.timeout(30):
            while len(used) < 6:
                await verifier.verify(identity.token)
                used |= clients_of(server.port)


async def test_a_proxy_authenticates_at_once_and_stays_connected() -> None:
    """It makes a call as soon as it is connected. Its connection stays, and a stranger's later one is closed."""
    limits = ServerLimits(authentication_timeout_s=2.0, stop_grace_s=0)
    async with serving(await Identity.settled(), limits=limits) as server, asking(server.port) as channel:
        await channel.connected()
        before = clients_of(server.port)
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()

        assert len(before) == 1
        assert before <= clients_of(server.port)


def clients_of(port: int) -> set[int]:
    """Return the client's port of each connection to a port of this machine."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {int(f[2].rpartition(":")[2], 16) for f in lines if f[1].endswith(f":{port:04X}") and f[3] == "01"}
