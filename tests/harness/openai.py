"""A scripted OpenAI server on a loopback socket: a pytest plugin, and a program (``python -m harness.openai``).

It implements HTTP/1.1 itself, so that it can also violate it: ``harness.openai_wire`` has the scripts. A request
without a script is answered by ``harness.openai_default``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import struct
import sys
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import pytest

from harness.openai_default import default_script
from harness.openai_wire import Close, Pause, Reset, Rest, Script, Send, Silent, head

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Coroutine, Iterator

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
TLS_HANDSHAKE = 0x16
WAIT_S = 10.0
"""How long a test waits for what must happen; only a failing one waits so long."""


@dataclass(slots=True)
class RecordedRequest:
    """One request: its bytes on the wire, its connection (counted from 1), and when that connection ended.

    ``closed`` is set, with the time of the server's loop, once the client has closed or reset the connection, or the
    script has.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    closed: asyncio.Future[float]

    def header(self, name: str) -> str | None:
        """Return a header's value, or None; several values are joined as RFC 9110 specifies."""
        values = [value for own, value in self.headers if own.lower() == name.lower()]
        return ", ".join(values) if values else None

    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(self.body)

    async def closed_at(self) -> float:
        """Wait for the end of the connection; return its time in the loop's seconds."""
        return await asyncio.wait_for(asyncio.shield(self.closed), WAIT_S)


@dataclass(slots=True)
class ScriptedOpenAI:
    """The server. ``put`` scripts into it, then send requests to ``base_url`` and look at ``requests``."""

    base_url: str = ""
    requests: list[RecordedRequest] = field(default_factory=list)
    scripts: deque[Script] = field(default_factory=deque)
    connections: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[_Connection] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a loopback port; 0 selects a free one."""
        loop = self._loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), LOOPBACK, port, ssl=tls)
        bound = self._server.sockets[0].getsockname()[1]
        self.base_url = f"{'https' if tls else 'http'}://{LOOPBACK}:{bound}/v1"

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        """Drop every connection and wait until all have ended."""
        for connection in list(self._open):
            await connection.cut()

    def put(self, *scripts: Script) -> None:
        """Answer the next requests with these scripts, one each; may be called from any thread."""
        self.scripts.extend(scripts)

    def script_for(self, request: RecordedRequest) -> Script:
        """Record a request and return the script for it."""
        self.requests.append(request)
        self._arrived.set()
        return self.scripts.popleft() if self.scripts else default_script(request.path, request.body)

    async def request(self, number: int = 1) -> RecordedRequest:
        """Wait for the request with this number, counted from 1, and return it."""
        async with asyncio.timeout(WAIT_S):
            while len(self.requests) < number:
                self._arrived.clear()
                await self._arrived.wait()
        return self.requests[number - 1]

    def see(self, what: Coroutine[Any, Any, T]) -> T:
        """From another thread, run a coroutine in the server's loop and return its result."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(WAIT_S)

    @property
    def unsent_bytes(self) -> int:
        """The bytes that are still to be sent, without those in the operating system's buffers."""
        return sum(connection.unsent_bytes for connection in list(self._open))

    @classmethod
    @contextmanager
    def in_thread(cls, port: int = 0) -> Iterator[Self]:
        """Run a server in a thread with its own event loop, for tests without one."""
        server, loop = cls(), asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(server.start(port), loop).result(WAIT_S)
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(WAIT_S)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(WAIT_S)
            loop.close()


class _Connection(asyncio.Protocol):
    """One connection: reads requests one after another and plays a script for each."""

    def __init__(self, server: ScriptedOpenAI) -> None:
        self._server = server
        self._received = bytearray()
        self._playing: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._closed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections += 1
        self._number = self._server.connections
        self._server._open.add(self)  # noqa: SLF001 - the server and its connections are one thing

    def data_received(self, data: bytes) -> None:
        if data[0] == TLS_HANDSHAKE and self._transport is not None:  # refused in plain text, as servers do
            self._transport.write(head(400))
            self._transport.close()
            return
        self._received += data
        self._begin()

    def eof_received(self) -> None:
        self._mark_closed()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._mark_closed()
        self._server._open.discard(self)  # noqa: SLF001 - the server and its connections are one thing
        if self._playing is not None:
            self._playing.cancel()
        self._lost.set_result(None)

    @property
    def unsent_bytes(self) -> int:
        """The bytes that are still to be sent."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def cut(self) -> None:
        """Drop the connection and wait until it has ended."""
        if self._transport is not None:
            self._transport.abort()
        await self._lost
        if self._playing is not None:
            await asyncio.wait([self._playing])

    def _mark_closed(self) -> None:
        if not self._closed.done():
            self._closed.set_result(asyncio.get_running_loop().time())

    def _begin(self) -> None:
        """Play the script for the next request, if the request is complete and no other script runs."""
        if self._playing is not None:
            return
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = bytes(self._received[:end]).decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        length = int(next((value for name, value in headers if name.lower() == "content-length"), "0"))
        body_end = end + 4 + length
        if len(self._received) < body_end:
            return
        body = bytes(self._received[end + 4 : body_end])
        del self._received[:body_end]
        request = RecordedRequest(method, path, headers, body, self._number, self._closed)
        self._playing = asyncio.get_running_loop().create_task(self._play(self._server.script_for(request)))

    async def _play(self, script: Script) -> None:
        assert self._transport is not None
        for step in script:
            match step:
                case Send(data):
                    self._transport.write(data)
                    await asyncio.sleep(0)  # a write of its own, so usually also a read of its own
                case Pause(gate):
                    await gate.wait()
                case Rest(seconds):
                    await asyncio.sleep(seconds)
                case Close():
                    self._transport.close()
                    return
                case Reset():
                    raw: socket.socket = self._transport.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._transport.abort()
                    return
                case Silent():
                    return  # _playing stays set, so further requests are ignored too
        self._playing = None
        self._begin()


@pytest.fixture
async def openai_server() -> AsyncIterator[ScriptedOpenAI]:
    """A running scripted provider, for one test."""
    server = ScriptedOpenAI()
    await server.start()
    yield server
    await server.stop()


async def _serve(port: int) -> None:
    server = ScriptedOpenAI()
    await server.start(port)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    sys.stdout.write(f"listening on {server.base_url}\n")
    sys.stdout.flush()
    await stopped.wait()
    await server.stop()


def main() -> None:
    """Serve plausible completions until SIGINT or SIGTERM; the first line on stdout is the base URL."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on the loopback interface; 0 for any free one")
    asyncio.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
