"""An HTTP/1.1 transport with a connection pool for each server (ADR 0025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.http_client.happy_eyeballs import resolve
from ibex.adapters.http_client.pool import ConnectionPool, Origin, PoolLimits
from ibex.adapters.http_client.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from ibex.adapters.http_client.happy_eyeballs import Resolver
    from ibex.adapters.http_client.tls import ResumingContext

MAX_CONNECTIONS: Final = 1_000
_PORTS: Final = {"http": 80, "https": 443}


def default_transport(max_connections: int = MAX_CONNECTIONS) -> Http1Transport:
    """Return a transport whose pools have at most this many connections, and as many requests that wait for one."""
    return Http1Transport(PoolLimits(max_connections, max_connections))


class Http1Transport:
    """A transport over HTTP/1.1 connection pools. No forward proxy, redirects, cookies or compression.

    Use ``upstream_over`` to send requests.
    """

    def __init__(
        self,
        limits: PoolLimits,
        make_tls: Callable[[], ResumingContext] = client_context,
        resolve: Resolver = resolve,
    ) -> None:
        """Set the limits of each pool, and the functions that create a TLS context and look up a host."""
        self._limits = limits
        self._make_tls = make_tls
        self._resolve = resolve
        self._pools: dict[tuple[str, str, int], ConnectionPool] = {}

    @property
    def open_requests(self) -> int:
        """The number of connections that carry a request."""
        return sum(pool.in_use for pool in self._pools.values())

    async def aclose(self) -> None:
        """Close all connections, including those in use."""
        for pool in self._pools.values():
            await pool.aclose()

    def renew_tls(self) -> None:
        """Read the CAs again, for new connections. Raises ``OSError`` if they cannot be read; the old ones stay."""
        contexts = {key: self._make_tls() for key in self._pools if key[0] == "https"}
        for key, context in contexts.items():
            self._pools[key].use_tls(context)

    def pool(self, url: httpx.URL) -> ConnectionPool:
        """Return the pool for a URL's server; create it if it does not exist."""
        key = (url.scheme, url.host, url.port or 0)
        pool = self._pools.get(key)
        if pool is None:
            tls = self._make_tls() if url.scheme == "https" else None
            origin = Origin(url.host, url.port or _PORTS[url.scheme], tls)
            pool = self._pools[key] = ConnectionPool(origin, self._limits, self._resolve)
        return pool
