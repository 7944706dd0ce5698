"""Direct requests (ADR 0051): served like requests by ASGI, and only those that cannot be read in another way."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from harness.http_scene import CHAT, HEADERS, REQUEST, STREAM_REQUEST, HeldStream, HttpScene
from harness.server_connection import Connection, RecordingTransport
from ibex.adapters.http_server.client_connection import KEEP_ALIVE, Limits
from ibex.adapters.http_server.direct_request import DirectRoute, DirectRoutes
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol
from ibex.adapters.system.clock import SystemClock
from ibex.domain.errors import ClientClosedRequestError

if TYPE_CHECKING:
    from ibex.adapters.http_server.direct_request import DirectRequest

BODY = b'{"a":1}'
LINES = (
    b"Host: h",
    b"Authorization: %b" % str(HEADERS["authorization"]).encode(),
    b"Content-Type: application/json",
    b"Content-Length: %d" % len(BODY),
)
VARYING = re.compile(
    rb"(x-request-id|x-trace-id|x-response-time|x-ratelimit-remaining|server-timing|x-ibex-session-id): [^\r]*"
    rb'|"(request_id|timestamp)":"[^"]*"'
)


def message(lines: tuple[bytes, ...] = LINES, body: bytes = BODY, start: bytes = b"POST %b HTTP/1.1") -> bytes:
    """Return a request with these header lines."""
    return b"\r\n".join([start.replace(b"%b", CHAT.encode()), *lines, b"", body])


def chat(body: bytes = REQUEST, *more: bytes) -> bytes:
    """Return a chat completion request that the scene answers."""
    lines = [b"%b: %b" % (name.encode(), str(value).encode()) for name, value in HEADERS.items()]
    return message((b"Host: h", *lines, b"Content-Length: %d" % len(body), *more), body)


async def _unused(*_: Any) -> None:
    raise AssertionError


def parsed(data: bytes) -> DirectRequest | None:
    """Return the direct request that these bytes are, if they are one."""
    return DirectRoutes([DirectRoute(CHAT, CHAT, _unused, Limits())], _unused, SystemClock()).parse(data)


class Served:
    """A connection to the application of a scene."""

    def __init__(self, scene: HttpScene) -> None:
        self.transport = RecordingTransport()
        self.state = ServerState()
        config = uvicorn.Config(
            scene.app(),
            interface="asgi3",
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
        )
        config.load()
        self.protocol = LimitedHttpProtocol(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.transport)

    async def answer(self, *reads: bytes) -> bytes:
        """Return what was written, once every request in these reads has its response."""
        self.transport.written = b""
        for read in reads:
            self.protocol.data_received(read)
        while self.state.tasks:
            await asyncio.gather(*self.state.tasks)
            await asyncio.sleep(0)
        return self.transport.written


@pytest.mark.parametrize("more", [(), (b"Connection: keep-alive, upgrade",)], ids=["direct", "ASGI"])
async def test_the_date_is_that_of_the_response(more: tuple[bytes, ...]) -> None:
    """A response to a request that takes seconds has the time at which it begins (RFC 9110, section 6.6.1)."""
    served = Served(HttpScene())
    served.state.default_headers = [(b"date", b"when the request arrived")]
    served.protocol.data_received(chat(REQUEST, *more))
    served.state.default_headers = [(b"date", b"when the response began")]

    written = await served.answer()

    assert b"date: when the response began\r\n" in written
    assert written.count(b"date: ") == 1
    served.protocol.connection_lost(None)


def test_a_request_in_one_read_is_direct() -> None:
    """Names are in lower case, and the body is what follows the head."""
    request = parsed(message())

    assert request is not None
    assert request.body == BODY
    assert request.fields[b"content-type"] == b"application/json"


@pytest.mark.parametrize(
    "lines",
    [
        (*LINES, b"Transfer-Encoding: chunked"),
        (*LINES, b"Expect: 100-continue"),
        (*LINES, b"Upgrade: websocket"),
        (*LINES, b"Connection: close"),
        (*LINES, b"Connection: keep-alive, upgrade"),
        (*LINES, b"Origin: https://page.example"),
        (*LINES, b"content-length: 7"),
        (*LINES, b"Host: other"),
        (*LINES, b"X-A: 1", b"x-a: 2"),
        (*LINES, b" folded: 1"),
        (*LINES, b"X-A : 1"),
        (*LINES, b"X-A"),
        (*LINES, b": 1"),
        (*LINES, b"X-A: 1\x00"),
        (*LINES, b"X-A: 1\rX-B: 2"),
        (*LINES, b"X-A: 1\nX-B: 2"),
        LINES[1:],
        (*LINES[:1], *LINES[2:]),
        (*LINES[:1], b"Authorization: Bearer wrong", *LINES[2:]),
        LINES[:3],
        (*LINES[:3], b"Content-Length: 6"),
        (*LINES[:3], b"Content-Length: 8"),
        (*LINES[:3], b"Content-Length: +7"),
        (*LINES[:3], b"Content-Length: 7, 7"),
        (*LINES, *[b"X-%d: 1" % number for number in range(256)]),
        (*LINES, b"X-A: " + bytes(64 << 10).replace(b"\x00", b"a")),
    ],
)
def test_a_head_of_another_form_is_not_direct(lines: tuple[bytes, ...]) -> None:
    """The parser of the normal path decides about it."""
    assert parsed(message(lines)) is None


@pytest.mark.parametrize(
    "start", [b"GET %b HTTP/1.1", b"POST %b HTTP/1.0", b"POST %b?a=1 HTTP/1.1", b"POST  %b HTTP/1.1"]
)
def test_another_request_line_is_not_direct(start: bytes) -> None:
    """A route is known by its whole request line."""
    assert parsed(message(start=start)) is None


def test_two_requests_in_one_read_are_not_direct() -> None:
    """Neither is an incomplete one."""
    assert parsed(message() * 2) is None
    assert all(parsed(message()[:end]) is None for end in range(len(message())))


_text = st.binary(max_size=6) | st.sampled_from(
    [b"close", b"chunked", b"7", b" ", b"\t", b"a b", b"\x80", b"1\r\n2", b""]
)
_name = st.sampled_from([b"X-A", b"connection", b"TE", b"Host", b"Content-Length", b"X-A ", b"", b"transfer-encoding"])
_line = st.tuples(_name | st.binary(max_size=4), st.sampled_from([b":", b": ", b":\t ", b" :"]), _text).map(b"".join)


@settings(deadline=None)
@given(more=st.lists(_line, max_size=4), at=st.integers(0, 4), tail=st.sampled_from([b"", b"\r\n", b"G"]))
def test_a_direct_request_is_what_the_parser_reads(more: list[bytes], at: int, tail: bytes) -> None:
    """Whatever the head: if a request is direct, the parser of the normal path reads the same request from it."""
    data = message((*LINES[:at], *more, *LINES[at:])) + tail
    request = parsed(data)
    if request is None:
        return

    async def by_asgi() -> Connection:
        connection = Connection()
        connection.protocol.data_received(data)
        await connection.settle()
        await connection.finish()
        return connection

    connection = asyncio.run(by_asgi())

    assert connection.codes == [None]
    assert {name: value.strip(b" \t") for name, value in connection.seen[0]["headers"]} == {
        name: value.strip(b" \t") for name, value in request.fields.items()
    }
    assert b"".join(connection.bodies) == request.body


async def test_a_direct_request_is_answered_like_one_by_asgi() -> None:
    """The response differs in ids and times alone, and the connection serves both in turn."""
    scene = HttpScene()
    served = Served(scene)
    data = chat()

    direct = await served.answer(data)
    by_asgi = await served.answer(data[:50], data[50:])
    again = await served.answer(data)

    assert direct.startswith(b"HTTP/1.1 200 OK\r\n")
    names = {line.partition(b":")[0] for line in direct.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
    assert names == {line.partition(b":")[0] for line in by_asgi.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
    assert direct.partition(b"\r\n\r\n")[2] == by_asgi.partition(b"\r\n\r\n")[2]
    assert again.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [ended.status for ended in scene.observer.requests] == [200, 200, 200]


@pytest.mark.parametrize(
    "body", [b"{", b'{"model":"gpt-4o"}', b'{"model":"other","messages":[{"role":"user","content":"a"}]}']
)
async def test_a_direct_request_is_refused_like_one_by_asgi(body: bytes) -> None:
    """Status, headers and envelope are equal, apart from ids and times."""
    served = Served(HttpScene())
    data = chat(body)

    direct = await served.answer(data)
    by_asgi = await served.answer(data[:50], data[50:])

    assert direct.startswith(b"HTTP/1.1 4")
    lines, others = (sorted(VARYING.sub(b"", answer).split(b"\r\n")) for answer in (direct, by_asgi))
    assert lines == others


async def test_a_request_behind_a_direct_one_waits_for_its_turn() -> None:
    """The parser queues it, and the end of the direct response starts it."""
    served = Served(HttpScene())

    answers = await served.answer(chat(), chat())

    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2


async def test_a_client_that_leaves_ends_a_direct_request() -> None:
    """The exchange is recorded as closed by the client, and nothing is written."""
    scene = HttpScene(HeldStream())
    served = Served(scene)
    served.protocol.data_received(chat(STREAM_REQUEST))
    await served.transport.until_written(b"HTTP/1.1 200")

    served.protocol.connection_lost(None)
    await asyncio.gather(*served.state.tasks)

    assert scene.observer.requests[0].in_flight is not None
    (settled,) = scene.chat.observer.exchanges
    assert settled.exchange.error_code == ClientClosedRequestError.code


async def test_a_direct_stream_is_chunked_and_its_silences_are_filled() -> None:
    """One chunk holds the events that arrived together, and a comment follows a silence."""
    stream = HeldStream()
    scene = HttpScene(stream)
    scene.limits = Limits(keep_alive_s=0.001)
    served = Served(scene)
    served.protocol.data_received(chat(STREAM_REQUEST))
    await served.transport.until_written(b"%x\r\n%b\r\n" % (len(KEEP_ALIVE), KEEP_ALIVE))

    stream.queue.put_nowait(None)
    await asyncio.gather(*served.state.tasks)

    head, _, body = served.transport.written.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert b"event-stream" in head
    assert body.endswith(b"\r\n0\r\n\r\n")
    assert b'"error"' in body


async def test_a_direct_request_ends_its_connection_when_the_server_drains() -> None:
    """The running response is completed, with a header that tells the client."""
    scene = HttpScene()
    served = Served(scene)
    served.protocol.data_received(chat())
    served.protocol.shutdown()

    await asyncio.gather(*served.state.tasks)

    assert b"connection: close\r\n" in served.transport.written
    assert served.transport.half_closed


async def test_a_bug_in_a_direct_request_is_an_internal_error() -> None:
    """The client gets an envelope, and the observer the exception."""
    scene = HttpScene(RuntimeError("secret"))
    served = Served(scene)

    answer = await served.answer(chat())

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer
    assert [type(failure) for failure in scene.observer.failures] == [RuntimeError]
