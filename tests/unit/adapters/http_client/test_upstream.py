"""Tests that the upstream over IBEX's own transport and the one over httpx's transports behave the same."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from ibex.adapters.http_client.connection import READ_BYTES, Http1Connection
from ibex.adapters.http_client.pool import PoolLimits
from ibex.adapters.http_client.transport import Http1Transport
from ibex.adapters.http_client.upstream import upstream_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ibex.adapters.http_client.upstream import Upstream, UpstreamResponse

HEADERS = ((b"host", b"provider.test"), (b"authorization", b"Bearer sk-1"))
URL = httpx.URL("http://provider.test/v1/")
ANSWER = b"HTTP/1.1 200 OK\r\nX-Twice: one\r\nx-twice: two\r\nContent-Length: 5\r\n\r\nhello"


class Wire(asyncio.Transport):
    """An in-memory transport that records the written data."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Record the data."""
        self.written += bytes(data)

    def is_closing(self) -> bool:
        """Return whether the transport is closed."""
        return self.closed

    def abort(self) -> None:
        """Close the transport."""
        self.closed = True

    def get_write_buffer_size(self) -> int:
        """Return 0, because all data is sent."""
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return a stub socket for ``socket``, else None."""
        return self if name == "socket" else default

    def setsockopt(self, *_: object) -> None:
        """Do nothing."""


class Direct:
    """IBEX's own transport with one idle connection to an in-memory wire."""

    def __init__(self) -> None:
        self.transport = Http1Transport(PoolLimits(1, 0))
        self.pool = self.transport.pool(URL)
        self.connection = Http1Connection(self.pool, memoryview(bytearray(READ_BYTES)))
        self.wire = Wire()
        self.connection.connection_made(self.wire)
        self.pool.released(self.connection)

    def arrives(self, data: bytes) -> None:
        """Receive data from the server."""
        buffer = self.connection.get_buffer(-1)
        buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))


class Recording(httpx.AsyncBaseTransport):
    """An httpx transport that records the request and returns a fixed response."""

    def __init__(self) -> None:
        self.request: httpx.Request | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Record the request and return the response."""
        self.request = request
        return httpx.Response(200, headers=[("X-Twice", "one"), ("x-twice", "two")], content=b"hello")


def far_future() -> float:
    """Return a time that no test reaches."""
    return asyncio.get_running_loop().time() + 60


@asynccontextmanager
async def posted(
    upstream: Upstream, direct: Direct | None = None, headers: Sequence[tuple[bytes, bytes]] = ()
) -> AsyncIterator[UpstreamResponse]:
    """Send a request, feed the response, and close it at the end."""
    asking = asyncio.create_task(
        upstream.send("POST", "chat/completions", b"{}", stream=False, by=far_future(), fresh=False, headers=headers)
    )
    await asyncio.sleep(0)
    if direct is not None:
        direct.arrives(ANSWER)
    response = await asking
    try:
        yield response
    finally:
        await response.aclose()


async def test_a_request_over_ibexs_own_transport_is_complete() -> None:
    """The request has the path below the root, all headers, the accepted type, the length, and the body."""
    direct = Direct()
    async with posted(upstream_over(direct.transport, URL, HEADERS, 1.0), direct):
        pass
    assert direct.wire.written == (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: provider.test\r\nauthorization: Bearer sk-1\r\n"
        b"accept: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )


async def test_a_request_over_httpx_has_the_same_headers() -> None:
    """The transport gets exactly these headers."""
    transport = Recording()
    async with posted(upstream_over(transport, URL, HEADERS, 1.0)):
        pass
    assert transport.request is not None
    assert transport.request.headers.raw == [
        *HEADERS,
        (b"accept", b"application/json"),
        (b"content-length", b"2"),
    ]


async def test_the_headers_of_one_request_are_sent_only_with_it() -> None:
    """They follow the other headers."""
    direct, transport = Direct(), Recording()
    own, more = upstream_over(direct.transport, URL, HEADERS, 1.0), ((b"a", b"1"), (b"b", b"2"))
    async with posted(own, direct, more) as response:
        response.rest()
    assert direct.wire.written.endswith(b"content-length: 2\r\na: 1\r\nb: 2\r\n\r\n{}")
    async with posted(own, direct):
        pass
    assert direct.wire.written.endswith(b"content-length: 2\r\n\r\n{}")
    async with posted(upstream_over(transport, URL, HEADERS, 1.0), headers=more):
        pass
    assert transport.request is not None
    assert transport.request.headers.raw[-2:] == list(more)


@pytest.mark.parametrize("over", ["direct", "httpx"])
async def test_a_response_is_the_same_over_both_transports(over: str) -> None:
    """Status and body are equal; repeated headers are joined with commas, absent ones are empty."""
    direct = Direct() if over == "direct" else None
    transport = direct.transport if direct is not None else Recording()
    async with posted(upstream_over(transport, URL, HEADERS, 1.0), direct) as response:
        assert (response.status, response.header("x-twice"), response.header("x-absent")) == (200, "one, two", "")
        assert b"".join([chunk async for chunk in response]) == b"hello"


async def test_a_body_that_has_arrived_is_returned_at_once() -> None:
    """The method returns it once. Over httpx it returns None, and the body must be read."""
    direct = Direct()
    async with posted(upstream_over(direct.transport, URL, HEADERS, 1.0), direct) as response:
        assert response.rest() == b"hello"
        assert response.rest() == b""
    async with posted(upstream_over(Recording(), URL, HEADERS, 1.0)) as response:
        assert response.rest() is None


async def test_a_response_that_does_not_begin_in_time_raises_a_timeout() -> None:
    """The connection is closed."""
    direct = Direct()
    upstream = upstream_over(direct.transport, URL, HEADERS, 1.0)
    with pytest.raises(TimeoutError):
        await upstream.send(
            "POST", "chat/completions", b"{}", stream=True, by=asyncio.get_running_loop().time() + 0.01, fresh=False
        )
    assert direct.wire.closed
    assert b"accept: text/event-stream\r\n" in direct.wire.written


async def test_a_discarded_connection_is_not_reused() -> None:
    """It is closed even though its response is complete."""
    direct = Direct()
    async with posted(upstream_over(direct.transport, URL, HEADERS, 1.0), direct) as response:
        response.rest()
        await response.discard_connection()
    assert direct.pool.take_idle() is None
