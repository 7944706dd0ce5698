"""The server's protocol hands out the scissors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from ibex.adapters.http.client import CUT, WATCH
from ibex.adapters.http.edge import REFUSED
from ibex.adapters.http.errors import status_of
from ibex.adapters.http.server_protocol import MAX_HEAD_BYTES, MAX_HEADERS, LimitedHttpProtocol

if TYPE_CHECKING:
    from ibex.adapters.http.asgi import Receive, Scope, Send


class RecordingTransport(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writings: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Remember what was written."""
        self.written += bytes(data)
        self.writings.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        """Remember what was written at once."""
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        """Tell whether it was cut."""
        return self.aborted

    def abort(self) -> None:
        """Be cut."""
        self.aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Know nothing."""
        del name
        return default

    def pause_reading(self) -> None:
        """Go on regardless."""

    def resume_reading(self) -> None:
        """Go on regardless."""

    def close(self) -> None:
        """Be closed."""
        self.aborted = True


async def test_each_request_can_cut_its_connection() -> None:
    """The extension in the scope drops the connection with what is still to be sent."""
    scopes: list[Scope] = []
    answered = asyncio.Event()

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        answered.set()

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    config.load()
    transport = RecordingTransport()
    protocol = LimitedHttpProtocol(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(transport)

    protocol.data_received(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
    await answered.wait()
    assert not transport.aborted
    scopes[0]["extensions"][CUT]()

    assert transport.aborted
    protocol.connection_lost(None)


async def test_an_answer_is_written_at_once() -> None:
    """Head and body of what has a length are one piece, or two at once where the body is large."""
    for size in (0, 1, 1_000_000):
        connection = Connection(body=b"x" * size)
        connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        written = await connection.finish()

        assert written.startswith(b"HTTP/1.1 200 OK\r\n")
        assert written.endswith(b"\r\n\r\n" + b"x" * size)
        assert len(connection.transport.writings) == 1


async def test_the_head_of_an_answer_is_not_lost_where_its_body_comes_in_parts() -> None:
    """Nor where the client asked for the head alone."""
    for method, parts in ((b"GET", 2), (b"HEAD", 1)):
        connection = Connection(body=b"xy", parts=parts)
        connection.protocol.data_received(method + b" / HTTP/1.1\r\nhost: a\r\n\r\n")
        written = await connection.finish()

        assert written.count(b"HTTP/1.1 200 OK\r\n") == 1
        assert written.endswith(b"\r\n\r\n" + (b"" if method == b"HEAD" else b"xy"))


async def test_the_head_of_a_stream_does_not_wait() -> None:
    """Its client sees the status while the model still thinks."""
    connection = Connection(waits=True, body=None)
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await connection.began.wait()

    assert connection.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (await connection.finish()).endswith(b"0\r\n\r\n")


async def test_a_loss_before_the_end_of_the_answer_is_told() -> None:
    """To who watches the request, at once, and once."""
    connection = Connection(waits=True)
    left: list[str] = []
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await connection.began.wait()
    connection.seen[0]["extensions"][WATCH](lambda: left.append("left"))

    connection.protocol.connection_lost(None)

    assert left == ["left"]


async def test_a_loss_after_the_answer_is_nobodys_concern() -> None:
    """The connection was only kept for more."""
    connection = Connection(waits=True)
    left: list[str] = []
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await connection.began.wait()
    connection.seen[0]["extensions"][WATCH](lambda: left.append("left"))
    connection.may_answer.set()
    await connection.answered.wait()

    connection.protocol.connection_lost(None)

    assert not left


async def test_a_loss_is_told_to_the_request_that_runs_and_to_no_other() -> None:
    """Also where others wait behind it: nothing more is written, and nobody is to blame."""
    connection = Connection(waits=True)
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
    await connection.began.wait()
    tasks = list(connection.state.tasks)
    connection.transport.writings.clear()

    connection.protocol.connection_lost(None)
    connection.may_answer.set()
    await asyncio.gather(*tasks)

    assert len(connection.seen) == 1
    assert connection.transport.writings == []


class Connection:
    """One connection to an application that echoes the headers it sees, or waits before it answers."""

    def __init__(self, *, waits: bool = False, body: bytes | None = b"x", parts: int = 1) -> None:
        """Take the body of each answer, None for one without a length, and in how many parts it is sent."""
        self._body = body
        self._parts = parts
        self.seen: list[Scope] = []
        self.bodies: list[bytes] = []
        self.may_answer = asyncio.Event()
        self.began = asyncio.Event()
        self.answered = asyncio.Event()
        if not waits:
            self.may_answer.set()
        config = uvicorn.Config(self._app, interface="asgi3", log_config=None, access_log=False, lifespan="off")
        config.load()
        self.transport = RecordingTransport()
        self.state = ServerState()
        self.protocol = LimitedHttpProtocol(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.transport)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = scope["extensions"].get(REFUSED)
        if refused is None:
            self.seen.append(scope)
            self.bodies.append((await receive())["body"])
        status = status_of(refused)
        headers = [] if self._body is None else [(b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        self.began.set()
        await self.may_answer.wait()
        body, size = self._body or b"", len(self._body or b"") // self._parts
        for part in range(1, self._parts):
            await send({"type": "http.response.body", "body": body[(part - 1) * size : part * size], "more_body": True})
        await send({"type": "http.response.body", "body": body[(self._parts - 1) * size :]})
        self.answered.set()

    async def finish(self) -> bytes:
        """Let it answer and return all that was written."""
        self.may_answer.set()
        await asyncio.gather(*self.state.tasks)
        self.protocol.connection_lost(None)
        return self.transport.written


@pytest.mark.parametrize(
    "head",
    [
        b"x-a: " + b"a" * (MAX_HEAD_BYTES + 1),
        b"x-a: " + b"a" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n",
        b"".join(b"x-%d: a\r\n" % n for n in range(MAX_HEADERS + 1)) + b"\r\n",
    ],
    ids=["one header without end", "one header", "many headers"],
)
async def test_a_head_is_bounded(head: bytes) -> None:
    """In bytes, also while it is still coming, and in headers: 431, and the connection is closed."""
    connection = Connection()
    request = b"GET / HTTP/1.1\r\nhost: a\r\n" + head
    for start in range(0, len(request), 10_000):
        if not connection.transport.is_closing():
            connection.protocol.data_received(request[start : start + 10_000])

    assert (await connection.finish()).startswith(b"HTTP/1.1 431 ")
    assert connection.seen == []
    assert connection.transport.is_closing()


async def test_a_head_within_the_bound_is_taken_again_and_again() -> None:
    """The bound is a request's, not a connection's; a body does not count."""
    connection = Connection()
    body = b"b" * 200_000
    for _ in range(4):
        connection.answered.clear()
        headers = b"".join(b"x-%d: %s\r\n" % (n, b"a" * 200) for n in range(200))
        connection.protocol.data_received(b"POST / HTTP/1.1\r\nhost: a\r\n" + headers)
        connection.protocol.data_received(b"content-length: %d\r\n\r\n" % len(body) + body)
        await connection.answered.wait()

    assert (await connection.finish()).count(b"HTTP/1.1 200 ") == 4


async def test_trailers_are_no_headers() -> None:
    """Who filters headers in front of this has seen all of them."""
    connection = Connection()
    connection.protocol.data_received(
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n0\r\nauthorization: Bearer canary\r\n\r\n"
    )
    await connection.answered.wait()

    assert {name for name, _ in connection.seen[0]["headers"]} == {b"host", b"transfer-encoding"}
    await connection.finish()


async def test_what_is_no_http_does_not_get_into_an_answer() -> None:
    """The answer that is being sent ends; before one it is 400."""
    connection = Connection(waits=True)
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await connection.began.wait()
    connection.protocol.data_received(b"\x00garbage\r\n\r\n")

    assert connection.transport.is_closing()
    assert b"400" not in await connection.finish()

    other = Connection()
    other.protocol.data_received(b"\x00garbage\r\n\r\n")
    assert (await other.finish()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n",
        b"GET / HTTP/2.0\r\nhost: a\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n",
        b"NOTHING / HTTP/1.1\r\nhost: a\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n",
    ],
)
async def test_what_two_could_read_in_two_ways_is_refused(head: bytes) -> None:
    """Once, and nothing that comes after it is looked at."""
    connection = Connection()
    connection.protocol.data_received(head + b"\r\n")
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")

    written = await connection.finish()
    assert written.startswith(b"HTTP/1.1 400 ")
    assert written.count(b"HTTP/1.1") == 1
    assert connection.seen == []
    assert connection.transport.is_closing()


@pytest.mark.parametrize("cut", [20, 90, 160])
async def test_an_upgrade_that_is_offered_is_not_taken(cut: int) -> None:
    """Some clients offer HTTP/2 with their first request; it is answered as any other, body and all."""
    connection = Connection()
    request = (
        b"POST /a?b HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAEAAEAA\r\ncontent-length: 5\r\nx-other: kept\r\n\r\nhello"
    )
    for part in (request[:cut], request[cut:], b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"):
        connection.protocol.data_received(part)

    written = await connection.finish()
    assert written.count(b"HTTP/1.1 200 ") >= 1
    scope = connection.seen[0]
    assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/a", b"b")
    assert dict(scope["headers"]) == {b"host": b"a", b"content-length": b"5", b"x-other": b"kept"}
    assert connection.bodies[0] == b"hello"
