"""The server's protocol hands out the scissors."""

from __future__ import annotations

import asyncio

import pytest

from harness.server_connection import Connection
from ibex.adapters.http_server.client_connection import WATCH
from ibex.adapters.http_server.request_fields import MAX_HEAD_BYTES, MAX_HEADERS


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
        if not connection.is_over:
            connection.protocol.data_received(request[start : start + 10_000])

    assert (await connection.finish()).startswith(b"HTTP/1.1 431 ")
    assert connection.codes == ["HEADERS_TOO_LARGE"]
    assert connection.seen == []
    assert connection.is_over


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
async def test_what_two_could_read_in_two_ways_is_refused(head: bytes, piece: int) -> None:
    """Once, however it is cut, and nothing that comes after it is looked at."""
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


@pytest.mark.parametrize("second", [b"POST / RTSP/1.0\r\nhost: a\r\n\r\n", b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n"])
async def test_a_pipelined_request_of_another_protocol_is_refused(second: bytes) -> None:
    """Also where it does not begin a read. The request before it is cut off, as nothing can follow its response."""
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
async def test_what_frames_a_body_is_bounded(endless: bytes) -> None:
    """The application hears of it where it reads the body, and its response closes the connection."""
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


async def test_trailers_that_are_too_large_cut_a_response_that_has_begun() -> None:
    """A status can only be sent once."""
    connection = Connection(waits=True, reads=False)
    connection.protocol.data_received(CHUNKED)
    await connection.began.wait()
    for _ in range(10):
        connection.protocol.data_received(b"0" * 10_000)

    assert connection.transport.aborted
    await connection.finish()


async def test_small_chunks_and_short_trailers_are_taken() -> None:
    """One byte at a time, with an extension each, for longer than a head may be."""
    connection = Connection()
    connection.protocol.data_received(CHUNKED)
    for _ in range(200):
        connection.protocol.data_received(b"1;a=b\r\nx\r\n" * 100)
    connection.protocol.data_received(b"0\r\nt: " + b"a" * 60_000 + b"\r\n\r\n")

    assert (await connection.finish()).startswith(b"HTTP/1.1 200 ")
    assert b"".join(connection.bodies) == b"x" * 20_000


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_response_before_the_end_of_the_body_closes(version: bytes) -> None:
    """The rest of the body is thrown away, up to a limit, and nothing of it is taken for a request."""
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


async def test_more_requests_at_once_than_are_kept() -> None:
    """Their client is cut off: each takes memory before the first is answered."""
    connection = Connection(waits=True)
    connection.protocol.data_received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 1_000)

    assert connection.transport.aborted
    await connection.finish()
