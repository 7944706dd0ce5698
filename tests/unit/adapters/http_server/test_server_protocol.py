"""Tests of the server protocol."""

from __future__ import annotations

import asyncio

import pytest

from harness.server_connection import Connection
from ibex.adapters.http_server.client_connection import WATCH
from ibex.adapters.http_server.request_fields import MAX_HEAD_BYTES, MAX_HEADERS


async def test_a_response_is_written_at_once() -> None:
    """Head and body of a response with a length are one write, or one call with two parts if the body is large."""
    for size in (0, 1, 1_000_000):
        connection = Connection(body=b"x" * size)
        connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        written = await connection.finish()

        assert written.startswith(b"HTTP/1.1 200 OK\r\n")
        assert written.endswith(b"\r\n\r\n" + b"x" * size)
        assert len(connection.transport.writings) == 1


async def test_the_head_of_a_response_is_written_if_its_body_comes_in_parts() -> None:
    """It is also written for a HEAD request."""
    for method, parts in ((b"GET", 2), (b"HEAD", 1)):
        connection = Connection(body=b"xy", parts=parts)
        connection.protocol.data_received(method + b" / HTTP/1.1\r\nhost: a\r\n\r\n")
        written = await connection.finish()

        assert written.count(b"HTTP/1.1 200 OK\r\n") == 1
        assert written.endswith(b"\r\n\r\n" + (b"" if method == b"HEAD" else b"xy"))


async def test_the_head_of_a_stream_does_not_wait() -> None:
    """The client gets the status while the model still computes."""
    connection = Connection(waits=True, body=None)
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await connection.began.wait()

    assert connection.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (await connection.finish()).endswith(b"0\r\n\r\n")


async def test_a_disconnect_before_the_end_of_the_response_is_reported() -> None:
    """The callback of the request is called at once, and only once."""
    connection = Connection(waits=True)
    reports: list[str] = []
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await connection.began.wait()
    connection.seen[0]["extensions"][WATCH](lambda: reports.append("left"))

    connection.protocol.connection_lost(None)

    assert reports == ["left"]


async def test_a_disconnect_after_the_response_is_not_reported() -> None:
    """The connection is idle."""
    connection = Connection(waits=True)
    reports: list[str] = []
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await connection.began.wait()
    connection.seen[0]["extensions"][WATCH](lambda: reports.append("left"))
    connection.may_answer.set()
    await connection.answered.wait()

    connection.protocol.connection_lost(None)

    assert not reports


async def test_a_disconnect_is_reported_only_to_the_running_request() -> None:
    """Requests may wait behind it. Nothing more is written, and no error is logged."""
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


@pytest.mark.parametrize(
    "head",
    [
        b"x-a: " + b"a" * (MAX_HEAD_BYTES + 1),
        b"x-a: " + b"a" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n",
        b"".join(b"x-%d: a\r\n" % n for n in range(MAX_HEADERS + 1)) + b"\r\n",
    ],
    ids=["one header without end", "one header", "many headers"],
)
async def test_a_head_with_too_many_bytes_or_headers_is_refused(head: bytes) -> None:
    """The client gets 431, and the connection is closed. The limit on bytes applies to an incomplete head too."""
    connection = Connection()
    request = b"GET / HTTP/1.1\r\nhost: a\r\n" + head
    for start in range(0, len(request), 10_000):
        if not connection.is_over:
            connection.protocol.data_received(request[start : start + 10_000])

    assert (await connection.finish()).startswith(b"HTTP/1.1 431 ")
    assert connection.codes == ["HEADERS_TOO_LARGE"]
    assert connection.seen == []
    assert connection.is_over


async def test_a_head_within_the_limit_is_accepted_repeatedly() -> None:
    """The limit is per request, not per connection. A body does not count."""
    connection = Connection()
    body = b"b" * 200_000
    for _ in range(4):
        connection.answered.clear()
        headers = b"".join(b"x-%d: %s\r\n" % (n, b"a" * 200) for n in range(200))
        connection.protocol.data_received(b"POST / HTTP/1.1\r\nhost: a\r\n" + headers)
        connection.protocol.data_received(b"content-length: %d\r\n\r\n" % len(body) + body)
        await connection.answered.wait()

    assert (await connection.finish()).count(b"HTTP/1.1 200 ") == 4


async def test_trailers_are_not_headers() -> None:
    """A filter in front of the proxy checks only headers, so a trailer must not become one."""
    connection = Connection()
    connection.protocol.data_received(
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n0\r\nauthorization: Bearer canary\r\n\r\n"
    )
    await connection.answered.wait()

    assert {name for name, _ in connection.seen[0]["headers"]} == {b"host", b"transfer-encoding"}
    await connection.finish()


async def test_invalid_http_does_not_interrupt_a_response() -> None:
    """A running response is sent to its end. Without one, the client gets 400."""
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
        b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n",
        b"GET / RTSP/1.0\r\nhost: a\r\n",
        b"POST / RTSP/1.1\r\nhost: a\r\nx: POST / HTTP/1.1\r\n",
        b"\r\nPOST / RTSP/1.0\r\nhost: a\r\n",
        b"DESCRIBE / RTSP/1.0\r\nhost: a\r\n",
        b"DESCRIBE / HTTP/1.1\r\nhost: a\r\n",
        b"SOURCE / ICE/1.0\r\nhost: a\r\n",
        b"SOURCE / HTTP/1.1\r\nhost: a\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"PRI / HTTP/1.1\r\nhost: a\r\n",
        b"GET /\r\n",
        b"GET / HTTP/0.9\r\nhost: a\r\n",
        b"GET / http/1.1\r\nhost: a\r\n",
        b"GET  / HTTP/1.1\r\nhost: a\r\n",
        b"GET /  HTTP/1.1\r\nhost: a\r\n",
        b"GET /#a HTTP/1.1\r\nhost: a\r\n",
        b"GET / HTTP/1.1\nhost: a\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n",
    ],
)
@pytest.mark.parametrize("piece", [1, 1_000])
async def test_an_ambiguous_request_is_refused(head: bytes, piece: int) -> None:
    """It is refused once, for any cuts, and the data after it is discarded."""
    connection = Connection()
    request = head + b"\r\n"
    for start in range(0, len(request), piece):
        connection.protocol.data_received(request[start : start + piece])
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")

    written = await connection.finish()
    assert written.startswith(b"HTTP/1.1 400 ")
    assert written.count(b"HTTP/1.1") == 1
    assert connection.seen == []
    assert connection.is_over


@pytest.mark.parametrize("cut", [20, 90, 160])
async def test_an_offered_upgrade_is_ignored(cut: int) -> None:
    """Some clients offer HTTP/2 with their first request. It is served like any other, with its body.

    The application sees the offer, because it refuses those of WebSocket.
    """
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
    kept = {b"host": b"a", b"upgrade": b"h2c", b"content-length": b"5", b"x-other": b"kept"}
    assert dict(scope["headers"]) == kept
    assert connection.bodies[0] == b"hello"


async def test_an_upgrade_with_the_header_for_proxies_is_ignored() -> None:
    """The parser takes Proxy-Connection for Connection."""
    connection = Connection()
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\nproxy-connection: upgrade\r\nupgrade: h2c\r\n\r\n")

    assert (await connection.finish()).startswith(b"HTTP/1.1 200 ")


async def test_an_upgrade_in_http_1_0_is_ignored() -> None:
    """A server must ignore it (RFC 9110, 7.8). It used to get 400, as a request line that does not match."""
    connection = Connection()
    connection.protocol.data_received(b"GET / HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")

    assert (await connection.finish()).startswith(b"HTTP/1.1 200 ")
    assert connection.seen[0]["http_version"] == "1.0"


@pytest.mark.parametrize("second", [b"POST / RTSP/1.0\r\nhost: a\r\n\r\n", b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n"])
async def test_a_pipelined_request_of_another_protocol_is_refused(second: bytes) -> None:
    """It need not begin a read. The response before it is aborted, because nothing can follow it."""
    connection = Connection()
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" + second)
    await connection.settle()

    assert connection.transport.aborted
    assert len(connection.seen) <= 1
    await connection.finish()


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "endless",
    [
        b"1\r\nx\r\n0\r\nt: " + b"a" * 200_000,
        b"1\r\nx\r\n0\r\n" + b"t: a\r\n" * (MAX_HEADERS + 2),
        b"1;" + b"a" * 200_000,
        b"0" * 200_000,
        (b"1;" + b"a" * 20_000 + b"\r\nx\r\n") * 10,
    ],
    ids=["one trailer", "many trailers", "an extension", "a size", "an extension for each byte"],
)
async def test_the_framing_of_a_body_is_limited(endless: bytes) -> None:
    """The application gets the error when it reads the body, and its response closes the connection."""
    connection = Connection()
    connection.protocol.data_received(CHUNKED)
    for start in range(0, len(endless), 10_000):
        connection.protocol.data_received(endless[start : start + 10_000])
    await connection.settle()

    assert connection.codes == ["HEADERS_TOO_LARGE"]
    assert connection.transport.half_closed
    written = await connection.finish()
    assert written.startswith(b"HTTP/1.1 431 ")
    assert b"\r\nconnection: close\r\n" in written


async def test_too_large_trailers_abort_a_response_that_has_begun() -> None:
    """The status has been sent already."""
    connection = Connection(waits=True, reads=False)
    connection.protocol.data_received(CHUNKED)
    await connection.began.wait()
    for _ in range(10):
        connection.protocol.data_received(b"0" * 10_000)

    assert connection.transport.aborted
    await connection.finish()


async def test_small_chunks_and_short_trailers_are_accepted() -> None:
    """Each chunk has one byte and an extension. Together they exceed the limit of a head."""
    connection = Connection()
    connection.protocol.data_received(CHUNKED)
    for _ in range(200):
        connection.protocol.data_received(b"1;a=b\r\nx\r\n" * 100)
    connection.protocol.data_received(b"0\r\nt: " + b"a" * 60_000 + b"\r\n\r\n")

    assert (await connection.finish()).startswith(b"HTTP/1.1 200 ")
    assert b"".join(connection.bodies) == b"x" * 20_000


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_response_before_the_end_of_the_body_closes_the_connection(version: bytes) -> None:
    """The rest of the body is discarded up to a limit, and never parsed as a request."""
    connection = Connection(reads=False)
    connection.protocol.data_received(b"POST / HTTP/" + version + b"\r\nhost: a\r\ncontent-length: 9000000\r\n\r\n")
    await connection.settle()
    assert b"\r\nconnection: close\r\n" in connection.transport.written
    assert (connection.transport.half_closed, connection.transport.aborted) == (True, False)

    for _ in range(9):
        connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 20_000)
    await connection.settle()
    assert len(connection.seen) == 1
    assert not connection.transport.aborted

    for _ in range(30):
        connection.protocol.data_received(b"x" * 600_000)
    assert connection.transport.aborted
    await connection.finish()


async def test_a_client_with_too_many_pipelined_requests_is_disconnected() -> None:
    """Each request uses memory until the responses before it are sent."""
    connection = Connection(waits=True)
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 1_000)

    assert connection.transport.aborted
    await connection.finish()
