"""HTTP/1.1 to any number of servers: a connection pool for each (ADR 0025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.http_client.pool import ConnectionPool, Origin, PoolLimits
from ibex.adapters.http_client.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from ibex.adapters.http_client.tls import ResumingContext

MAX_CONNECTIONS: Final = 1_000
_PORTS: Final = {"http": 80, "https": 443}


def default_transport(max_connections: int = MAX_CONNECTIONS) -> Http1Transport:
    """Return a transport whose pools have this many connections, and as many requests that wait for one."""
    return Http1Transport(PoolLimits(max_connections, max_connections))


class Http1Transport:
    """The connection pools of HTTP/1.1 servers. No forward proxy, redirects, cookies or compression.

    ``upstream_over`` sends requests over it.
    """

    def __init__(self, limits: PoolLimits, make_tls: Callable[[], ResumingContext] = client_context) -> None:
        """Set the limits of each pool, and how to make a TLS context."""
        self._limits = limits
        self._make_tls = make_tls
        self._pools: dict[tuple[str, str, int], ConnectionPool] = {}

    @property
    def open_requests(self) -> int:
        """The number of connections with a request on them."""
        return sum(pool.in_use for pool in self._pools.values())

    async def aclose(self) -> None:
        """Close all connections, including those in use."""
        for pool in self._pools.values():
            await pool.aclose()

    def pool(self, url: httpx.URL) -> ConnectionPool:
        """Return the pool of a URL's server."""
        key = (url.scheme, url.host, url.port or 0)
        pool = self._pools.get(key)
        if pool is None:
            tls = self._make_tls() if url.scheme == "https" else None
            origin = Origin(url.host, url.port or _PORTS[url.scheme], tls)
            pool = self._pools[key] = ConnectionPool(origin, self._limits)
        return pool
