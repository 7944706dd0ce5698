"""The way to a provider's server: an ``httpx.AsyncBaseTransport``, so that any other one can stand in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import httpx

from ibex.adapters.openai.http1.pool import ConnectionPool, Origin, PoolLimits
from ibex.adapters.openai.http1.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.adapters.openai.http1.connection import Http1Connection
    from ibex.adapters.openai.http1.tls import ResumingContext

MAX_CONNECTIONS: Final = 1_000
FRESH: Final = "ibex.fresh_connection"
"""An extension of requests: True for one that must not go out on a connection that was kept."""

_PORTS: Final = {"http": 80, "https": 443}


def default_transport(max_connections: int = MAX_CONNECTIONS) -> Http1Transport:
    """Return the transport of the hot path; as many requests may wait for a connection as have one."""
    return Http1Transport(PoolLimits(max_connections, max_connections))


class Http1Transport(httpx.AsyncBaseTransport):
    """HTTP/1.1 with kept connections: no proxy, no redirects, no cookies, no compression of its own (ADR 0025).

    Of the timeouts in a request's extensions (``httpx``) ``connect`` and ``pool`` are kept here; how long to wait for
    an answer is for the caller to say, by cancelling. A cancelled request has its connection closed at once.

    Raises httpx's exceptions: ``PoolTimeout`` where the bounds of the pool are reached, ``ConnectError``,
    ``ConnectTimeout``, ``ReadError``, ``RemoteProtocolError``, and its subclass ``StaleConnectionError``.
    """

    def __init__(self, limits: PoolLimits, make_tls: Callable[[], ResumingContext] = client_context) -> None:
        self._limits = limits
        self._make_tls = make_tls
        self._pools: dict[tuple[str, str, int], ConnectionPool] = {}

    @property
    def open_requests(self) -> int:
        """How many connections have a request on them."""
        return sum(pool.in_use for pool in self._pools.values())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return its answer once the head of it is here. Its stream must be closed."""
        body = await _body_of(request)
        head = _head_of(request, body)
        timeouts = request.extensions.get("timeout", {})
        connection = await self.pool(request.url).get(
            connect_s=timeouts.get("connect"),
            wait_s=timeouts.get("pool"),
            fresh=request.extensions.get(FRESH, False),
        )
        reply = connection.send(head, body)
        try:
            await reply.head()
        except BaseException:
            await reply.aclose()
            raise
        return httpx.Response(
            reply.status,
            headers=reply.headers,
            stream=reply,
            extensions={"http_version": b"HTTP/" + reply.http_version.encode(), "network_stream": _Network(connection)},
        )

    async def aclose(self) -> None:
        """Close all connections, whoever uses them."""
        for pool in self._pools.values():
            await pool.aclose()

    def pool(self, url: httpx.URL) -> ConnectionPool:
        """Return the connections to a URL's server; for who sends past httpx's objects, to one URL again and again."""
        key = (url.scheme, url.host, url.port or 0)
        pool = self._pools.get(key)
        if pool is None:
            tls = self._make_tls() if url.scheme == "https" else None
            origin = Origin(url.host, url.port or _PORTS[url.scheme], tls)
            pool = self._pools[key] = ConnectionPool(origin, self._limits)
        return pool


class _Network:
    """What httpx calls a network stream: the connection under an answer."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Http1Connection) -> None:
        self._connection = connection

    def get_extra_info(self, info: str) -> object:
        """Return the ``ssl_object``, None where there is none."""
        return self._connection.ssl_object if info == "ssl_object" else None

    async def aclose(self) -> None:
        """Close it, so that it is not used again."""
        self._connection.close()


def _head_of(request: httpx.Request, body: bytes) -> bytes:
    headers = request.headers.raw
    if "content-length" not in request.headers:  # the body is here as a whole, so its length is its framing
        headers = [header for header in headers if header[0].lower() != b"transfer-encoding"]
        headers.append((b"content-length", b"%d" % len(body)))
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in headers]
    head = b"\r\n".join((*lines, b"", b""))
    line_ends = len(lines) + 1
    if head.count(b"\n") != line_ends or head.count(b"\r") != line_ends or b"\x00" in head:
        raise httpx.LocalProtocolError("a header holds what no header can")
    return head


async def _body_of(request: httpx.Request) -> bytes:
    stream = request.stream
    if isinstance(stream, httpx.SyncByteStream):
        return b"".join(stream)
    return b"".join([part async for part in stream])
