"""The HTTP server: listening sockets, and the drain after a signal."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from harness.process import IbexProcess
from ibex.entrypoints.listening import address_of, listen
from ibex.entrypoints.proxy_server import serve_http
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


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
