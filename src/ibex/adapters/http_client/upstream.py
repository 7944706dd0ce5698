"""The way to a provider's server as ``OpenAIProvider`` uses it: a body goes out, an answer comes in.

Any ``httpx.AsyncBaseTransport`` can carry it. IBEX's own is asked past httpx's objects, since making a request and a
response of them costs as much as all the rest of the way (ADR 0025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, cast

import httpx

from ibex.adapters.http_client.transport import Http1Transport
from ibex.domain.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ibex.adapters.http_client.connection import Http1Response

EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = "application/json"


class UpstreamResponse(Protocol):
    """An answer whose head is here; its body is read by iterating, at most once, and it must be closed.

    ``read_by``, in the event loop's time, may be moved between two readings; reading raises ``TimeoutError`` then, and
    the exceptions of httpx's transports. None is no limit.
    """

    status: int
    read_by: float | None

    def header(self, name: str) -> str:
        """Return a field's value, of a repeated one all with commas, and "" where there is none; lower-case names."""

    def rest(self) -> bytes | None:
        """Return all of the body that was not read, if the end of it is here; None if that is not known."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Read the body as it comes."""

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it. Idempotent."""

    async def discard_connection(self) -> None:
        """Close the connection whatever was read of it, where it is known."""


class Upstream(Protocol):
    """Where requests go to."""

    async def post(self, path: str, body: bytes, *, stream: bool, by: float, fresh: bool) -> UpstreamResponse:
        """Send a request to a path below the root URL; return its response once the head has arrived.

        ``stream``: events are wanted. ``by`` is when there has to be a head, in the event loop's time. ``fresh``: not
        on a connection that was kept. Raises ``TimeoutError``, and the exceptions of httpx's transports.
        """


def upstream_over(
    transport: Http1Transport | httpx.AsyncBaseTransport,
    url: httpx.URL,
    headers: Sequence[tuple[bytes, bytes]],
    connect_s: float,
) -> Upstream:
    """Return the upstream at a root URL, over a transport, with these headers on every request.

    ``connect_s`` limits connecting, and waiting for a connection, in seconds. The caller closes the transport.
    """
    kind = _Direct if isinstance(transport, Http1Transport) else _Httpx
    return cast("Upstream", kind(transport, url, headers, connect_s))  # type: ignore[arg-type]


class _Direct:
    """Over IBEX's own transport: the head of a request is but for its length always the same."""

    def __init__(
        self, transport: Http1Transport, url: httpx.URL, headers: Sequence[tuple[bytes, bytes]], connect_s: float
    ) -> None:
        self._pool = transport.pool(url)
        self._connect_s = connect_s
        self._root_path = url.raw_path
        self._headers = tuple(b"%b: %b" % header for header in headers)
        self._heads: dict[tuple[str, bool], bytes] = {}

    async def post(self, path: str, body: bytes, *, stream: bool, by: float, fresh: bool) -> Http1Response:
        """Send; see ``Upstream``."""
        head = self._heads.get((path, stream)) or self._head(path, stream=stream)
        connection = None if fresh else self._pool.kept()
        if connection is None:
            async with Deadline(by):
                connection = await self._pool.get(connect_s=self._connect_s, wait_s=self._connect_s, fresh=fresh)
        reply = connection.send(b"%b%d\r\n\r\n" % (head, len(body)), body)
        reply.read_by = by
        try:
            await reply.head()
        except BaseException:
            await reply.aclose()
            raise
        return reply

    def _head(self, path: str, *, stream: bool) -> bytes:
        """Return a head up to its length. There are two for each path of an operation."""
        line = b"POST %b%b HTTP/1.1" % (self._root_path, path.encode("ascii"))
        accept = b"accept: %b" % _ACCEPTED[stream].encode()
        head = self._heads[path, stream] = b"\r\n".join((line, *self._headers, accept, b"content-length: "))
        return head


class _Httpx:
    """Over any of httpx's transports."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        url: httpx.URL,
        headers: Sequence[tuple[bytes, bytes]],
        connect_s: float,
    ) -> None:
        self._transport = transport
        self._url = url
        self._headers = headers
        self._timeouts = {"connect": connect_s, "read": None, "write": None, "pool": connect_s}

    async def post(self, path: str, body: bytes, *, stream: bool, by: float, fresh: bool) -> HttpxResponse:
        """Send; see ``Upstream``. The transport itself replaces connections that the server has closed."""
        del fresh
        own = ((b"accept", _ACCEPTED[stream].encode()), (b"content-length", b"%d" % len(body)))
        request = httpx.Request(
            "POST",
            self._url.copy_with(raw_path=self._url.raw_path + path.encode("ascii")),
            headers=[*self._headers, *own],
            stream=httpx.ByteStream(body),
            extensions={"timeout": self._timeouts},
        )
        async with Deadline(by):
            response = await self._transport.handle_async_request(request)
        return HttpxResponse(response, by)


class HttpxResponse:
    """An ``UpstreamResponse`` that httpx's transport gave.

    It relies on the transport for one thing: to close an answer's stream, which may be asked for more than once, cannot
    be spoilt by a cancellation.
    """

    read_by: float | None

    def __init__(self, response: httpx.Response, read_by: float | None = None) -> None:
        self.status = response.status_code
        self.read_by = read_by
        self._response = response
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._chunks = aiter(self._stream)

    def header(self, name: str) -> str:
        """Return a field's value; see ``UpstreamResponse``."""
        return str(self._response.headers.get(name, ""))

    def rest(self) -> bytes | None:
        """Return None: nobody knows."""
        return None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes; see ``UpstreamResponse``."""
        if self.read_by is None:
            return await anext(self._chunks)
        async with Deadline(self.read_by):
            return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close the stream; see ``UpstreamResponse``."""
        await self._stream.aclose()

    async def discard_connection(self) -> None:
        """Close the connection, if the transport tells which it is."""
        network_stream = self._response.extensions.get("network_stream")
        if network_stream is not None:
            await network_stream.aclose()


_ACCEPTED: Final = (_JSON, EVENT_STREAM)
