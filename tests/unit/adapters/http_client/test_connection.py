"""Tests of one connection that is fed by hand: responses of all kinds, and the reuse of the connection after them."""

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
    """A scene that sends requests on an unwired connection."""

    def send(self) -> Http1Response:
        """Send a request."""
        return self.connection.send(HEAD, b"{}")

    async def exchange(self, data: bytes) -> tuple[int, bytes]:
        """Send a request, feed the response, read it and close it; return status and body."""
        response = self.send()
        self.feed(data)
        await response.head()
        body = b"".join([chunk async for chunk in response])
        await response.aclose()
        return response.status, body


async def test_a_dead_peer_is_detected() -> None:
    """TCP keep-alive is on, because the model may compute longer than a middlebox keeps an idle connection."""
    scene = Scene()
    assert scene.transport.options[socket.SO_KEEPALIVE] == 1
    assert scene.transport.options[socket.TCP_KEEPIDLE] == 60


@pytest.mark.both_loops
async def test_a_read_after_its_time_limit_times_out() -> None:
    """This also holds with uvloop, whose handles of immediate callbacks have no due time."""
    scene = Scene()
    response = scene.send()
    for left_s in (0.0001, -1.0):
        response.read_by = asyncio.get_running_loop().time() + left_s
        reading = asyncio.create_task(anext(response))
        await asyncio.sleep(0)
        scene.feed(b"HTTP/1.1 103 Early Hints\r\n\r\n")  # wakes the reader, which has no data to read
        with pytest.raises(TimeoutError):
            await reading
    await response.aclose()


async def test_a_reader_waits_until_its_time_limit() -> None:
    """The limit can be moved in both directions. Data that has arrived is read even after the limit."""
    scene = Scene()
    loop = asyncio.get_running_loop()
    response = scene.send()
    scene.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\no")
    response.read_by = loop.time() - 1
    assert await anext(response) == b"o"

    response.read_by = loop.time() + 60
    reading = asyncio.create_task(anext(response))
    await asyncio.sleep(0)
    scene.feed(b"k")
    assert await reading == b"k"
    response.read_by = began = loop.time() + 0.005
    with pytest.raises(TimeoutError):
        await anext(response)
    assert loop.time() >= began

    response.read_by = loop.time() + 0.005
    later = asyncio.create_task(anext(response))
    await asyncio.sleep(0)
    response.read_by = loop.time() + 0.02
    with pytest.raises(TimeoutError):
        await later
    assert loop.time() >= response.read_by
    await response.aclose()


async def test_data_is_passed_on_while_its_reader_waits() -> None:
    """Data that is not taken, or arrives while no read waits, is read. An exception is raised in the reader."""
    scene = Scene()
    response = scene.send()
    scene.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na")
    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        if data == b"!":
            raise RuntimeError("a bug")
        taken.append(data)
        return data != b"c"

    response.pass_to(take)
    assert await anext(response) == b"a"
    reading = asyncio.create_task(anext(response))
    await asyncio.sleep(0)
    for data in (b"b", b"c", b"d"):
        scene.feed(data)
    assert (await reading, taken) == (b"cd", [b"b", b"c"])

    reading = asyncio.create_task(anext(response))
    await asyncio.sleep(0)
    scene.feed(b"!")
    with pytest.raises(RuntimeError, match="a bug"):
        await reading
    await response.aclose()
    assert scene.transport.aborted


@in_simulated_time
async def test_data_that_arrived_while_the_loop_was_blocked_is_read() -> None:
    """The timer fires first but waits a little for the data. Without data, the read times out."""
    scene = Scene()
    response = scene.send()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    response.read_by = 1.0
    loop.call_at(2.0, scene.feed, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
    loop.call_soon(loop.stand_still, 3.0)
    assert await anext(response) == b"o"

    response.read_by = 4.0
    loop.call_soon(loop.stand_still, 3.0)
    with pytest.raises(TimeoutError):
        await anext(response)
    assert loop.time() == pytest.approx(6.0 + GRACE_S)
    await response.aclose()


async def test_a_request_is_sent_unchanged() -> None:
    """Head and body are sent in one write."""
    scene = Scene()
    scene.send()
    assert scene.transport.written == HEAD + b"{}"
    assert scene.made == [scene.connection]


@pytest.mark.parametrize(
    ("raw", "status", "body"),
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
async def test_a_response_with_any_framing_is_read_and_its_connection_is_reusable(
    raw: bytes, status: int, body: bytes
) -> None:
    """A response that arrives byte by byte equals one that arrives at once."""
    scene = Scene()
    assert await scene.exchange(raw) == (status, body)
    response = scene.send()
    for byte in raw:
        scene.feed(bytes([byte]))
    await response.head()
    assert b"".join([chunk async for chunk in response]) == body
    assert b"x-sum" not in dict(response.headers)
    await response.aclose()
    assert scene.kept == [scene.connection] * 2
    assert scene.connection.is_open


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"ok" + OK + b"no",
        OK + b"ok and more",
    ],
)
async def test_a_connection_in_doubt_is_not_reused(raw: bytes) -> None:
    """The response is complete, but a header or the data after it forbids the reuse of the connection."""
    scene = Scene()
    assert await scene.exchange(raw) == (200, b"ok")
    assert scene.kept == []
    assert scene.transport.aborted


async def test_a_body_without_framing_ends_with_the_connection() -> None:
    """The response has neither a length nor chunks (RFC 9112, 6.3)."""
    scene = Scene()
    response = scene.send()
    scene.feed(b"HTTP/1.0 200 OK\r\n\r\nok")
    await response.head()
    assert await anext(response) == b"ok"
    scene.connection.eof_received()
    assert [chunk async for chunk in response] == []
    await response.aclose()
    assert scene.transport.aborted


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1),
        b"HTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" * 4_000,
    ],
)
async def test_an_invalid_response_raises_and_closes_the_connection(raw: bytes) -> None:
    """The connection is not returned to the pool."""
    scene = Scene()
    response = scene.send()
    scene.feed(raw)
    with pytest.raises(httpx.RemoteProtocolError):
        await response.head()
    await response.aclose()
    assert scene.transport.aborted
    assert scene.kept == []


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (OK + b"o", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\nzz\r\n", None),
        (OK + b"o", ConnectionResetError()),
    ],
)
async def test_a_truncated_body_raises_after_the_data_that_arrived(raw: bytes, error: Exception | None) -> None:
    """Each further read raises again."""
    scene = Scene()
    response = scene.send()
    scene.feed(raw)
    await response.head()
    if not scene.transport.aborted:
        scene.connection.eof_received()
    scene.connection.connection_lost(error)
    assert await anext(response) == b"o"
    for _ in range(2):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await anext(response)
    await response.aclose()
    assert scene.gone == [scene.connection]


async def test_a_reused_connection_that_the_server_had_closed_is_stale() -> None:
    """A connection that dies at its first request is not stale, because the server may have read that request."""
    scene = Scene()
    first = scene.send()
    scene.connection.connection_lost(None)
    with pytest.raises(httpx.RemoteProtocolError) as raised:
        await first.head()
    assert not isinstance(raised.value, StaleConnectionError)
    kept = Scene()
    await kept.exchange(OK + b"ok")
    second = kept.send()
    kept.connection.connection_lost(ConnectionResetError())
    with pytest.raises(StaleConnectionError):
        await second.head()


@pytest.mark.parametrize(
    "received",
    [b"HTTP/1.1 200 OK\r\nx: y\r\nx-", b"HTTP/1.1 102 Processing\r\n\r\n", b"H"],
    ids=["head", "interim", "byte"],
)
async def test_a_reused_connection_that_dies_within_the_response_is_not_stale(received: bytes) -> None:
    """The server has read the request."""
    scene = Scene()
    await scene.exchange(OK + b"ok")
    response = scene.send()
    scene.feed(received)
    scene.connection.connection_lost(None)
    with pytest.raises(httpx.RemoteProtocolError) as raised:
        await response.head()
    assert not isinstance(raised.value, StaleConnectionError)


async def test_unsolicited_data_closes_the_connection() -> None:
    """The data could be read as the response to the next request."""
    scene = Scene()
    await scene.exchange(OK + b"ok")
    scene.feed(OK + b"ok")
    assert scene.transport.aborted
    assert not scene.connection.is_open


async def test_closing_an_incomplete_response_closes_the_connection() -> None:
    """A second close has no effect."""
    scene = Scene()
    response = scene.send()
    scene.feed(OK + b"o")
    await response.head()
    await response.aclose()
    await response.aclose()
    assert scene.transport.aborted
    assert scene.kept == []


async def test_closing_a_response_again_does_not_affect_the_next_one() -> None:
    """The connection already serves the next response at the second close."""
    scene = Scene()
    first = scene.send()
    scene.feed(OK + b"ok")
    await first.aclose()
    second = scene.send()
    await first.aclose()
    scene.feed(OK + b"ok")
    await second.head()
    assert b"".join([chunk async for chunk in second]) == b"ok"


async def test_a_response_before_the_end_of_the_request_closes_the_connection() -> None:
    """The server could read the rest of the request as the next one."""
    scene = Scene()
    scene.transport.unsent = 1
    assert await scene.exchange(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno") == (413, b"no")
    assert scene.kept == []
    assert scene.transport.aborted


async def test_closing_a_response_fails_a_concurrent_read() -> None:
    """The reading task gets an error instead of waiting forever."""
    scene = Scene()
    response = scene.send()
    reading = asyncio.ensure_future(response.head())
    await asyncio.sleep(0)
    await response.aclose()
    with pytest.raises(httpx.ReadError):
        await reading


async def test_a_slow_reader_pauses_reading_from_the_server() -> None:
    """The buffer exceeds its limit by one read at most. Reading resumes once the reader has taken the data."""
    scene = Scene()
    response = scene.send()
    size = MAX_UNREAD_BYTES + 2 * READ_BYTES
    scene.feed(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
    scene.feed(b"x" * (MAX_UNREAD_BYTES + 1))
    assert not scene.transport.reading
    assert len(await anext(response)) == MAX_UNREAD_BYTES + 1
    assert scene.transport.reading
    scene.feed(b"x" * (size - MAX_UNREAD_BYTES - 1))
    await response.aclose()
    assert scene.kept == [scene.connection]
    assert scene.transport.reading
