"""Both ways to a provider's server look the same to who asks: over IBEX's own transport, and over any of httpx's."""

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
    from collections.abc import AsyncIterator

    from ibex.adapters.http_client.upstream import Upstream, UpstreamResponse

HEADERS = ((b"host", b"provider.test"), (b"authorization", b"Bearer sk-1"))
URL = httpx.URL("http://provider.test/v1/")
ANSWER = b"HTTP/1.1 200 OK\r\nX-Twice: one\r\nx-twice: two\r\nContent-Length: 5\r\n\r\nhello"


class Wire(asyncio.Transport):
    """A transport in memory: keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written += bytes(data)

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self.closed

    def abort(self) -> None:
        """Close."""
        self.closed = True

    def get_write_buffer_size(self) -> int:
        """Return 0: everything is sent."""
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return a socket that takes no options, and nothing else."""
        return self if name == "socket" else default

    def setsockopt(self, *_: object) -> None:
        """Do nothing."""


class Direct:
    """IBEX's own transport with one kept connection, which leads nowhere."""

    def __init__(self) -> None:
        self.transport = Http1Transport(PoolLimits(1, 0))
        self.pool = self.transport.pool(URL)
        self.connection = Http1Connection(self.pool, memoryview(bytearray(READ_BYTES)))
        self.wire = Wire()
        self.connection.connection_made(self.wire)
        self.pool.released(self.connection)

    def arrives(self, data: bytes) -> None:
        """Let the server send something."""
        buffer = self.connection.get_buffer(-1)
        buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))


class Recording(httpx.AsyncBaseTransport):
    """One of httpx's: keeps the request and gives the answer."""

    def __init__(self) -> None:
        self.request: httpx.Request | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        self.request = request
        return httpx.Response(200, headers=[("X-Twice", "one"), ("x-twice", "two")], content=b"hello")


def far() -> float:
    """Return a moment that no test reaches."""
    return asyncio.get_running_loop().time() + 60


@asynccontextmanager
async def answered(upstream: Upstream, direct: Direct | None = None) -> AsyncIterator[UpstreamResponse]:
    """Ask, let the answer come, and close it afterwards."""
    asking = asyncio.create_task(upstream.post("chat/completions", b"{}", stream=False, by=far(), fresh=False))
    await asyncio.sleep(0)
    if direct is not None:
        direct.arrives(ANSWER)
    answer = await asking
    try:
        yield answer
    finally:
        await answer.aclose()


async def test_what_is_sent_directly_is_the_head_and_the_body() -> None:
    """The path below the root, every header, what is accepted, and the length."""
    direct = Direct()
    async with answered(upstream_over(direct.transport, URL, HEADERS, 1.0), direct):
        pass
    assert direct.wire.written == (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: provider.test\r\nauthorization: Bearer sk-1\r\n"
        b"accept: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )


async def test_what_is_sent_over_httpx_is_the_same() -> None:
    """Header by header."""
    transport = Recording()
    async with answered(upstream_over(transport, URL, HEADERS, 1.0)):
        pass
    assert transport.request is not None
    assert transport.request.headers.raw == [
        *HEADERS,
        (b"accept", b"application/json"),
        (b"content-length", b"2"),
    ]


@pytest.mark.parametrize("over", ["direct", "httpx"])
async def test_an_answer_is_told_alike(over: str) -> None:
    """Status, repeated fields with commas, absent ones as nothing, the body."""
    direct = Direct() if over == "direct" else None
    transport = direct.transport if direct is not None else Recording()
    async with answered(upstream_over(transport, URL, HEADERS, 1.0), direct) as answer:
        assert (answer.status, answer.header("x-twice"), answer.header("x-absent")) == (200, "one, two", "")
        assert b"".join([chunk async for chunk in answer]) == b"hello"


async def test_a_body_that_is_here_can_be_taken_as_a_whole() -> None:
    """Once; over httpx nobody knows, so it is read."""
    direct = Direct()
    async with answered(upstream_over(direct.transport, URL, HEADERS, 1.0), direct) as answer:
        assert answer.rest() == b"hello"
        assert answer.rest() == b""
    async with answered(upstream_over(Recording(), URL, HEADERS, 1.0)) as answer:
        assert answer.rest() is None


async def test_an_answer_that_does_not_begin_in_time_is_given_up() -> None:
    """The connection with it."""
    direct = Direct()
    upstream = upstream_over(direct.transport, URL, HEADERS, 1.0)
    with pytest.raises(TimeoutError):
        await upstream.post(
            "chat/completions", b"{}", stream=True, by=asyncio.get_running_loop().time() + 0.01, fresh=False
        )
    assert direct.wire.closed
    assert b"accept: text/event-stream\r\n" in direct.wire.written


async def test_a_distrusted_connection_is_not_used_again() -> None:
    """Though its answer is complete."""
    direct = Direct()
    async with answered(upstream_over(direct.transport, URL, HEADERS, 1.0), direct) as answer:
        answer.rest()
        await answer.discard_connection()
    assert direct.pool.kept() is None
