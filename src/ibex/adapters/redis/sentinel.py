"""Discovery of a service's primary through Redis Sentinel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from ibex.adapters.redis.connection import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection
    from redis.asyncio.sentinel import Sentinel

    from ibex.adapters.redis.urls import RedisAddress

CHECK_INTERVAL_S: Final = 1.0


class SentinelPrimary:
    """Finds the primary for each new connection, and checks once a second whether the Sentinels name another one.

    The check is needed because, after a fail-over, an old primary that still runs may accept writes for ten seconds.
    """

    def __init__(self, address: RedisAddress, on_switch: Callable[[], None] = lambda: None) -> None:
        """Set ``on_switch``, which is called when the Sentinels name another primary."""
        self._address = address
        self._on_switch = on_switch
        self._sentinel: Sentinel | None = None
        self._primary: tuple[str, int] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._is_closed = False

    async def connection(self) -> AbstractConnection:
        """Return a connection to the primary, not connected yet. Raises ``LinkError`` if no Sentinel names one."""
        try:
            self._primary = await self._discover()
        except (RedisError, OSError) as error:
            raise LinkError(f"no Sentinel names a primary of the service ({type(error).__name__})") from None
        if self._checking is None and not self._is_closed:
            self._checking = asyncio.get_running_loop().create_task(self._check())
        return self._address.connection(*self._primary)

    async def change_address(self, address: RedisAddress) -> None:
        """Use the Sentinels, credentials and certificates of another URL for new connections."""
        self._address = address
        sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            await sentinel.aclose()

    async def close(self) -> None:
        """Stop checking and disconnect from the Sentinels."""
        self._is_closed = True
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
            self._checking = None
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _discover(self) -> tuple[str, int]:
        if self._sentinel is None:
            self._sentinel = self._address.sentinel()
        host, port = await self._sentinel.discover_master(self._address.service)
        return host, int(port)

    async def _check(self) -> None:
        while not self._is_closed:  # ends even if a library below swallows the cancellation
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                primary = await self._discover()
            except (RedisError, OSError):
                continue
            if primary != self._primary:
                self._primary = primary
                self._on_switch()
