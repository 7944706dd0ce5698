"""The HTTP server: listening sockets, and the drain after a signal."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

from harness.process import IbexProcess
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.entrypoints.listening import address_of, let_handshakes_end, listen, listen_near, shut_down
from ibex.entrypoints.proxy_server import DrainingServer, DrainTimes, end_start_on_signal, serve_http
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ibex.adapters.http_server.closable_protocol import ClosableHttpProtocol

pytestmark = pytest.mark.integration

REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A free port on loopback."""
    with listen("127.0.0.1", 0) as bound:
        yield bound


def test_an_address_in_use_is_refused(listener: socket.socket) -> None:
    """Two processes cannot listen on one port. The error names the setting that selects another port."""
    listener.listen()
    port = listener.getsockname()[1]
    for setting, given in (("IBEX_PORT", ()), ("IBEX_AUTH_OPS_LISTEN", ("IBEX_AUTH_OPS_LISTEN",))):
        with pytest.raises(OSError, match=rf"in use\. Choose another port with {setting} \(0 for any free port\)"):
            listen("127.0.0.1", port, *given)


def test_an_auth_port_in_use_is_reported_with_its_setting(listener: socket.socket, tmp_path: Path) -> None:
    """Auth listens on two ports. The error for each is one line."""
    listener.listen()
    taken = f"127.0.0.1:{listener.getsockname()[1]}"
    environ = {
        "IBEX_AUTH_DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "IBEX_REDIS_URL": "redis://127.0.0.1:1",
        "IBEX_TOKEN_PEPPERS": "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "IBEX_AUTH_LISTEN": "127.0.0.1:0",
        "IBEX_AUTH_OPS_LISTEN": "127.0.0.1:0",
    }
    for setting in ("IBEX_AUTH_LISTEN", "IBEX_AUTH_OPS_LISTEN"):
        auth = IbexProcess.spawn(["auth", "serve"], {**environ, setting: taken}, tmp_path)

        assert auth.wait() == 1
        (line,) = (line for line in auth.lines if line.startswith("ibex:"))
        assert taken in line
        assert f"with {setting} (" in line


def test_a_wildcard_address_is_shown_as_loopback() -> None:
    """Not every system can send requests to 0.0.0.0."""
    with listen("0.0.0.0", 0) as bound:  # noqa: S104 - bound, never listened on
        assert address_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_serving_ends_after_cancelled_requests_have_finished(listener: socket.socket) -> None:
    """A request that runs at the shutdown deadline is cancelled. Serving waits for its cleanup."""
    arrived, recorded = asyncio.Event(), asyncio.Event()

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            recorded.set()

    serving = asyncio.create_task(
        serve_http(app, listener, Settings(drain_delay_s=0, shutdown_timeout_s=1), lambda: None)
    )
    async with httpx.AsyncClient(trust_env=False) as client:
        asking = asyncio.create_task(client.get(address_of(listener)))
        await arrived.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        assert recorded.is_set()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_signal_lets_a_running_request_finish(listener: socket.socket) -> None:
    """The drain begins at once. The request gets its response, and then serving ends."""
    arrived, drained, finish = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        arrived.set()
        await finish.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    serving = asyncio.create_task(
        serve_http(app, listener, Settings(drain_delay_s=0, shutdown_timeout_s=10), drained.set)
    )
    async with httpx.AsyncClient(trust_env=False) as client:
        asking = asyncio.create_task(client.get(address_of(listener)))
        await arrived.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await drained.wait()
        assert not serving.done()
        finish.set()
        answer = await asking
    await serving
    assert answer.text == "done"


async def test_a_request_that_has_arrived_but_is_not_read_keeps_its_connection(listener: socket.socket) -> None:
    """The connection is idle for the event loop when the drain delay ends. The request gets its response."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    connections: list[ClosableHttpProtocol] = []

    class Protocol(LimitedHttpProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base
            super().connection_made(transport)
            connections.append(self)

    config = uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    server = DrainingServer(config, lambda: None, DrainTimes(0, 5))
    listener.listen()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(REQUEST)
    assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 OK")
    writer.write(REQUEST)  # sent at once; the event loop does not read before the next line
    connections[0].shutdown()
    assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200 OK")

    connections[0].shutdown()
    assert await reader.read() == b""
    os.kill(os.getpid(), signal.SIGTERM)
    await serving
    writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can filter the packets of a socket")
async def test_a_socket_that_closes_refuses_late_connections_and_resets_none(listener: socket.socket) -> None:
    """A connection that waits is accepted. One that comes later repeats its first packet after a second."""
    listener.listen()
    listener.settimeout(0)
    with socket.socket() as waiting, socket.socket() as late:
        waiting.connect(listener.getsockname())
        await let_handshakes_end([listener])
        late.settimeout(0)
        assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        accepted, _ = listener.accept()
        accepted.close()
        with pytest.raises(BlockingIOError):
            listener.accept()
        shut_down(listener)
        assert (await asyncio.to_thread(select.select, [], [late], [], 10))[1] == [late]
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
async def test_a_hangup_or_an_interrupt_drains_like_sigterm(listener: socket.socket, number: signal.Signals) -> None:
    """The process serves by itself, so there is nothing to replace."""
    drained = asyncio.Event()
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ``nohup`` would ignore it

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    serving = asyncio.create_task(serve_http(app, listener, Settings(drain_delay_s=0), drained.set))
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(address_of(listener))).status_code == 200
    os.kill(os.getpid(), number)
    await serving
    assert drained.is_set()
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_during_the_start_ends_it_and_a_second_one_does_not_end_the_cleanup(
    number: signal.Signals,
) -> None:
    """The start is cancelled once, and closes what it has opened."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ``nohup`` would ignore it
    begun, closing, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    closed = []

    async def start() -> None:
        end_start_on_signal()
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            closing.set()
            await end.wait()
            closed.append(True)

    starting = asyncio.create_task(start())
    await begun.wait()
    os.kill(os.getpid(), number)
    await closing.wait()
    later = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, later.set)
    for one in (number, signal.SIGUSR1):  # the event loop handles them in this order
        os.kill(os.getpid(), one)
    await later.wait()
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert closed == [True]
    signal.signal(signal.SIGHUP, previous)


def test_a_taken_port_is_replaced_by_one_of_the_next() -> None:
    """A random port would break the URL of every client at each restart."""
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with listen_near("127.0.0.1", port) as near:
            assert port < near.getsockname()[1] < port + 10


def test_a_free_port_is_taken() -> None:
    """The wanted port comes first."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with listen_near("127.0.0.1", port) as near:
        assert near.getsockname()[1] == port
