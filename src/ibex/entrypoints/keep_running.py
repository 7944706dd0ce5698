"""A supervisor that restarts the servers of ``ibex dev``."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOG = logging.getLogger("ibex.dev")
CHECK_INTERVAL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Server:
    """A supervised server. ``runs`` returns whether it is running; ``start`` can block and raise."""

    name: str
    runs: Callable[[], bool]
    start: Callable[[], None]


class KeepRunning:
    """Restarts servers that have ended. A cancellation waits for a running start to end."""

    def __init__(self, servers: Sequence[Server], *, check_interval_s: float = CHECK_INTERVAL_S) -> None:
        self._servers = servers
        self._check_interval_s = check_interval_s

    async def run(self) -> None:
        """Check the servers periodically until cancelled. A failed start is retried at the next check."""
        while True:
            for server in self._servers:
                if not server.runs():
                    await self._start(server)
            await asyncio.sleep(self._check_interval_s)

    async def _start(self, server: Server) -> None:
        _LOG.error("%s ended unexpectedly; restarting it", server.name)
        starting = asyncio.create_task(asyncio.to_thread(server.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])  # otherwise ``stop`` could run before the start ends
            raise
        except Exception as error:  # noqa: BLE001 - the other servers and the next check must go on
            _LOG.error("%s failed to start (%s)", server.name, type(error).__name__)
        else:
            _LOG.info("%s is running again", server.name)
