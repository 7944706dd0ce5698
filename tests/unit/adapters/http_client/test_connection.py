"""One connection, fed by hand: every way in which an answer can come, and what the connection is worth after it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import httpx
import pytest

from harness.simulated_time import SimulatedLoop, in_simulated_time
from harness.unwired import Unwired
from ibex.adapters.http_client.connection import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_UNREAD_BYTES,
    READ_BYTES,
    StaleConnectionError,
)
from ibex.domain.deadline import GRACE_S

if TYPE_CHECKING:
    from ibex.adapters.http_client.connection import Http1Response

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Scene(Unwired):
    """Requests on an unwired connection."""

    def send(self) -> Http1Response:
        """Send a request."""
        return self.connection.send(HEAD, b"{}")

    async def answered(self, data: bytes) -> tuple[int, bytes]:
        """Send a request, feed the answer, read it and close it; return status and body."""
        reply = self.send()
        self.feed(data)
        await reply.head()
        body = b"".join([chunk async for chunk in reply])
        await reply.aclose()
        return reply.status, body


async def test_a_peer_that_vanishes_is_found_out() -> None:
    """The system probes the connection: a model may think longer than a middlebox remembers it."""
    scene = Scene()
    assert scene.transport.options[socket.SO_KEEPALIVE] == 1
    assert scene.transport.options[socket.TCP_KEEPIDLE] == 60


@pytest.mark.both_loops
async def test_a_limit_that_is_over_before_the_reader_waits() -> None:
    """Also where the loop's own timers do not know when they are due, as uvloop's that are due at once."""
    scene = Scene()
    reply = scene.send()
    for left_s in (0.0001, -1.0):
        reply.read_by = asyncio.get_running_loop().time() + left_s
        reading = asyncio.create_task(anext(reply))
        await asyncio.sleep(0)
        scene.feed(b"HTTP/1.1 103 Early Hints\r\n\r\n")  # wakes the reader, who has nothing to read
        with pytest.raises(TimeoutError):
            await reading
    await reply.aclose()


async def test_a_reader_waits_until_its_limit() -> None:
    """Which may come sooner or later than it was said before; what is there by then is read all the same."""
    scene = Scene()
    loop = asyncio.get_running_loop()
    reply = scene.send()
    scene.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\no")
    reply.read_by = loop.time() - 1
    assert await anext(reply) == b"o"

    reply.read_by = loop.time() + 60
    reading = asyncio.create_task(anext(reply))
    await asyncio.sleep(0)
    scene.feed(b"k")
    assert await reading == b"k"
    reply.read_by = began = loop.time() + 0.005
    with pytest.raises(TimeoutError):
        await anext(reply)
    assert loop.time() >= began

    reply.read_by = loop.time() + 0.005
    later = asyncio.create_task(anext(reply))
    await asyncio.sleep(0)
    reply.read_by = loop.time() + 0.02
    with pytest.raises(TimeoutError):
        await later
    assert loop.time() >= reply.read_by
    await reply.aclose()


@in_simulated_time
async def test_what_came_while_the_loop_stood_still_is_read() -> None:
    """The reader's timer, which is found first, lets it be looked for; where there is nothing, time is up then."""
    scene = Scene()
    reply = scene.send()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    reply.read_by = 1.0
    loop.call_at(2.0, scene.feed, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
    loop.call_soon(loop.stand_still, 3.0)
    assert await anext(reply) == b"o"

    reply.read_by = 4.0
    loop.call_soon(loop.stand_still, 3.0)
    with pytest.raises(TimeoutError):
        await anext(reply)
    assert loop.time() == pytest.approx(6.0 + GRACE_S)
    await reply.aclose()


async def test_a_request_goes_out_as_it_was_given() -> None:
    """Head and body, in one go."""
    scene = Scene()
    scene.send()
    assert scene.transport.written == HEAD + b"{}"
    assert scene.made == [scene.connection]


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (OK + b"ok", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" + OK + b"ok", 200, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 404, b""),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
    ],
)
async def test_an_answer_however_it_is_framed(answer: bytes, status: int, body: bytes) -> None:
    """Whole or byte by byte it is the same, and the connection serves another request."""
    scene = Scene()
    assert await scene.answered(answer) == (status, body)
    reply = scene.send()
    for byte in answer:
        scene.feed(bytes([byte]))
    await reply.head()
    assert b"".join([chunk async for chunk in reply]) == body
    assert b"x-sum" not in dict(reply.headers)
    await reply.aclose()
    assert scene.kept == [scene.connection] * 2
    assert scene.connection.is_open


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"ok" + OK + b"no",
        OK + b"ok and more",
    ],
)
async def test_a_connection_that_cannot_be_trusted_is_not_kept(answer: bytes) -> None:
    """The answer was whole; what is said of the connection, or comes after it, forbids to use it again."""
    scene = Scene()
    assert await scene.answered(answer) == (200, b"ok")
    assert scene.kept == []
    assert scene.transport.aborted


async def test_a_body_that_ends_with_the_connection() -> None:
    """Neither length nor chunks: the end of the connection is the end of the body (RFC 9112, 6.3)."""
    scene = Scene()
    reply = scene.send()
    scene.feed(b"HTTP/1.0 200 OK\r\n\r\nok")
    await reply.head()
    assert await anext(reply) == b"ok"
    scene.connection.eof_received()
    assert [chunk async for chunk in reply] == []
    await reply.aclose()
    assert scene.transport.aborted


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1),
        b"HTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" * 4_000,
    ],
)
async def test_what_is_no_answer(answer: bytes) -> None:
    """An error, and the connection is closed."""
    scene = Scene()
    reply = scene.send()
    scene.feed(answer)
    with pytest.raises(httpx.RemoteProtocolError):
        await reply.head()
    await reply.aclose()
    assert scene.transport.aborted
    assert scene.kept == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (OK + b"o", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\nzz\r\n", None),
        (OK + b"o", ConnectionResetError()),
    ],
)
async def test_a_body_that_is_cut(answer: bytes, error: Exception | None) -> None:
    """What came is read, then it raises."""
    scene = Scene()
    reply = scene.send()
    scene.feed(answer)
    await reply.head()
    if not scene.transport.aborted:
        scene.connection.eof_received()
    scene.connection.connection_lost(error)
    assert await anext(reply) == b"o"
    for _ in range(2):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await anext(reply)
    await reply.aclose()
    assert scene.gone == [scene.connection]


async def test_a_kept_connection_that_had_been_closed() -> None:
    """Told from one that dies at its first request, which the server may have read."""
    scene = Scene()
    first = scene.send()
    scene.connection.connection_lost(None)
    with pytest.raises(httpx.RemoteProtocolError) as raised:
        await first.head()
    assert not isinstance(raised.value, StaleConnectionError)
    kept = Scene()
    await kept.answered(OK + b"ok")
    second = kept.send()
    kept.connection.connection_lost(ConnectionResetError())
    with pytest.raises(StaleConnectionError):
        await second.head()


async def test_a_kept_connection_that_dies_in_the_answer() -> None:
    """Its server had read the request, so it was not stale."""
    scene = Scene()
    await scene.answered(OK + b"ok")
    reply = scene.send()
    scene.feed(b"HTTP/1.1 200 OK\r\nx: y\r\nx-")
    scene.connection.connection_lost(None)
    with pytest.raises(httpx.RemoteProtocolError) as raised:
        await reply.head()
    assert not isinstance(raised.value, StaleConnectionError)


async def test_bytes_that_nobody_asked_for() -> None:
    """They could be taken for the next request's answer."""
    scene = Scene()
    await scene.answered(OK + b"ok")
    scene.feed(OK + b"ok")
    assert scene.transport.aborted
    assert not scene.connection.is_open


async def test_a_reader_that_leaves_before_the_end() -> None:
    """The connection is closed; leaving twice is leaving once."""
    scene = Scene()
    reply = scene.send()
    scene.feed(OK + b"o")
    await reply.head()
    await reply.aclose()
    await reply.aclose()
    assert scene.transport.aborted
    assert scene.kept == []


async def test_leaving_an_answer_long_after_its_connection_serves_another() -> None:
    """A second close does not touch what is not its own any more."""
    scene = Scene()
    first = scene.send()
    scene.feed(OK + b"ok")
    await first.aclose()
    second = scene.send()
    await first.aclose()
    scene.feed(OK + b"ok")
    await second.head()
    assert b"".join([chunk async for chunk in second]) == b"ok"


async def test_an_answer_that_comes_before_the_request_is_sent() -> None:
    """What is still to be sent would be taken for the next request, so there is none."""
    scene = Scene()
    scene.transport.unsent = 1
    assert await scene.answered(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno") == (413, b"no")
    assert scene.kept == []
    assert scene.transport.aborted


async def test_closing_while_another_task_reads() -> None:
    """It is told, rather than left waiting."""
    scene = Scene()
    reply = scene.send()
    reading = asyncio.ensure_future(reply.head())
    await asyncio.sleep(0)
    await reply.aclose()
    with pytest.raises(httpx.ReadError):
        await reading


async def test_a_reader_that_falls_behind_stops_the_sender() -> None:
    """No more is held than a read beyond the bound; reading on, all of it is there."""
    scene = Scene()
    reply = scene.send()
    size = MAX_UNREAD_BYTES + 2 * READ_BYTES
    scene.feed(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
    scene.feed(b"x" * (MAX_UNREAD_BYTES + 1))
    assert not scene.transport.reading
    assert len(await anext(reply)) == MAX_UNREAD_BYTES + 1
    assert scene.transport.reading
    scene.feed(b"x" * (size - MAX_UNREAD_BYTES - 1))
    await reply.aclose()
    assert scene.kept == [scene.connection]
    assert scene.transport.reading
