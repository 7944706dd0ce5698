"""The primary of a service, as the Sentinels know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from ibex.adapters.redis.connection import LinkError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection
    from redis.asyncio.sentinel import Sentinel

    from ibex.adapters.redis.urls import Address


class SentinelPrimary:
    """Finds the primary, each time that a connection is made."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sentinel: Sentinel | None = None

    async def connection(self) -> AbstractConnection:
        """Return a connection to the primary that is not connected. Raises ``LinkError``."""
        if self._sentinel is None:
            self._sentinel = self._address.sentinel()
        try:
            host, port = await self._sentinel.discover_master(self._address.service)
        except (RedisError, OSError) as error:
            raise LinkError(f"no Sentinel names a primary ({type(error).__name__})") from None
        return self._address.connection(host, port)

    async def close(self) -> None:
        """Disconnect from the Sentinels."""
        if self._sentinel is not None:
            await self._sentinel.aclose()
