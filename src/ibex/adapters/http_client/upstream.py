"""The upstream: the interface through which a provider sends requests to its server and reads the responses.

It works over any ``httpx.AsyncBaseTransport``. IBEX's own transport is used without httpx's request and response
objects, because creating them costs as much as all the other work (ADR 0025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

import httpx

from ibex.adapters.http_client.not_connected import not_connected
from ibex.adapters.http_client.transport import Http1Transport
from ibex.domain.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ibex.adapters.http_client.connection import Http1Response

EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = "application/json"
_MAX_HEADS: Final = 64
Headers: TypeAlias = "Sequence[tuple[bytes, bytes]]"


class UpstreamResponse(Protocol):
    """A response whose head has arrived. Iterate over it, at most once, to read the body. It must be closed.

    Reading raises ``TimeoutError`` at ``read_by``, which is in the event loop's time and can be changed between two
    reads; None means no limit. Reading also raises the exceptions of httpx's transports.
    """

    status: int
    read_by: float | None

    def header(self, name: str) -> str:
        """Return a header's value, "" if it is absent. Repeated ones are joined with commas. Use a lower-case name."""

    def rest(self) -> bytes | None:
        """Return the unread part of the body if the body has arrived completely, else None."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the parts of the body as they arrive."""

    def pass_to(self, take: Callable[[bytes], bool] | None) -> None:
        """Allow to pass the data that arrives while a read waits to ``take``, at once, instead of ending the read.

        ``take`` returns whether it took the data. If not, the read returns it, and possibly more after it. None ends
        this. A transport that cannot pass data on ignores the call.
        """

    async def aclose(self) -> None:
        """Release the connection if the body was read to its end, else close it. Idempotent."""

    async def discard_connection(self) -> None:
        """Close the connection even if the body was read to its end. Does nothing if the transport hides it."""


class Upstream(Protocol):
    """A server that receives requests below a root URL."""

    async def send(
        self, method: str, path: str, body: bytes, *, stream: bool, by: float, fresh: bool, headers: Headers = ()
    ) -> UpstreamResponse:
        """Send a request to a path below the root URL; return its response once the head has arrived.

        Only POST has a body. ``stream`` requests an event stream. ``by`` is the time limit for the head, in the event
        loop's time. ``fresh`` excludes idle connections. ``headers`` are added to this request only. Raises
        ``TimeoutError``, and the exceptions of httpx's transports.
        """


def upstream_over(
    transport: Http1Transport | httpx.AsyncBaseTransport,
    url: httpx.URL,
    headers: Headers,
    connect_s: float,
) -> Upstream:
    """Return the upstream at a root URL, which sends these headers with every request.

    ``connect_s`` limits the time to connect, and the wait for a connection, in seconds. The caller closes the
    transport.
    """
    kind = _PooledUpstream if isinstance(transport, Http1Transport) else _HttpxUpstream
    return cast("Upstream", kind(transport, url, headers, connect_s))  # type: ignore[arg-type]


class _PooledUpstream:
    """An upstream over IBEX's own transport. It caches request heads up to the parts that differ, which come last."""

    def __init__(self, transport: Http1Transport, url: httpx.URL, headers: Headers, connect_s: float) -> None:
        self._pool = transport.pool(url)
        self._connect_s = connect_s
        self._root_path = url.raw_path
        self._headers = tuple(b"%b: %b" % header for header in headers)
        self._heads: dict[tuple[str, str, bool], bytes] = {}

    async def send(
        self, method: str, path: str, body: bytes, *, stream: bool, by: float, fresh: bool, headers: Headers = ()
    ) -> Http1Response:
        """Send a request; see ``Upstream``."""
        head = self._heads.get((method, path, stream)) or self._head(method, path, stream=stream)
        connection = None if fresh else self._pool.take_idle()
        if connection is None:
            async with Deadline(by):
                connection = await self._pool.get(connect_s=self._connect_s, wait_s=self._connect_s, fresh=fresh)
        if method == "POST":
            head = b"%b%d\r\n" % (head, len(body))
        for header in headers:
            head += b"%b: %b\r\n" % header
        response = connection.send(head + b"\r\n", body)
        response.read_by = by
        try:
            await response.head()
        except BaseException:
            await response.aclose()
            raise
        return response

    def _head(self, method: str, path: str, *, stream: bool) -> bytes:
        """Return the head of a request, and cache it. The head of a POST ends before the value of content-length."""
        line = b"%b %b%b HTTP/1.1" % (method.encode("ascii"), self._root_path, path.encode("ascii"))
        accept = b"accept: %b" % _ACCEPTED[stream].encode()
        end = b"content-length: " if method == "POST" else b""
        if len(self._heads) >= _MAX_HEADS:  # paths may contain ids
            self._heads.clear()
        head = self._heads[method, path, stream] = b"\r\n".join((line, *self._headers, accept, end))
        return head


class _HttpxUpstream:
    """An upstream over any of httpx's transports."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        url: httpx.URL,
        headers: Headers,
        connect_s: float,
    ) -> None:
        self._transport = transport
        self._url = url
        self._headers = headers
        self._timeouts = {"connect": connect_s, "read": None, "write": None, "pool": connect_s}

    async def send(
        self, method: str, path: str, body: bytes, *, stream: bool, by: float, fresh: bool, headers: Headers = ()
    ) -> HttpxResponse:
        """Send a request; see ``Upstream``. ``fresh`` is ignored: the transport itself replaces closed connections."""
        del fresh
        added = [(b"accept", _ACCEPTED[stream].encode())]
        if method == "POST":
            added.append((b"content-length", b"%d" % len(body)))
        request = httpx.Request(
            method,
            self._url.copy_with(raw_path=self._url.raw_path + path.encode("ascii")),
            headers=[*self._headers, *added, *headers],
            stream=httpx.ByteStream(body),
            extensions={"timeout": self._timeouts},
        )
        try:
            async with Deadline(by):
                response = await self._transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise not_connected(error, self._url.host, self._url.port) from None
        return HttpxResponse(response, by)


class HttpxResponse:
    """An ``UpstreamResponse`` from an httpx transport.

    The transport must guarantee that closing a response's stream is idempotent and safe to cancel
    (``CancelSafeTransport``).
    """

    read_by: float | None

    def __init__(self, response: httpx.Response, read_by: float | None = None) -> None:
        self.status = response.status_code
        self.read_by = read_by
        self._response = response
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._chunks = aiter(self._stream)

    def header(self, name: str) -> str:
        """Return a header's value; see ``UpstreamResponse``."""
        return str(self._response.headers.get(name, ""))

    def rest(self) -> bytes | None:
        """Return None, because httpx does not report what has arrived."""
        return None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes; see ``UpstreamResponse``."""
        if self.read_by is None:
            return await anext(self._chunks)
        async with Deadline(self.read_by):
            return await anext(self._chunks)

    def pass_to(self, take: Callable[[bytes], bool] | None) -> None:
        """Do nothing; see ``UpstreamResponse``."""

    async def aclose(self) -> None:
        """Close the stream; see ``UpstreamResponse``."""
        await self._stream.aclose()

    async def discard_connection(self) -> None:
        """Close the connection, if the transport exposes it."""
        network_stream = self._response.extensions.get("network_stream")
        if network_stream is not None:
            await network_stream.aclose()


_ACCEPTED: Final = (_JSON, EVENT_STREAM)
