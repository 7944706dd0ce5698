"""Starting again a server of `ibex dev` that has ended by itself."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOG = logging.getLogger("ibex.dev")
LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server by its name, how to tell whether it runs, and how to start it, which may block and fail."""

    name: str
    runs: Callable[[], bool]
    start: Callable[[], None]


class KeepRunning:
    """Looks after servers until it is cancelled; a start that is under way then comes to its end first."""

    def __init__(self, servers: Sequence[Server], *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._servers = servers
        self._look_every_s = look_every_s

    async def run(self) -> None:
        """Look again and again; one that cannot be started is tried again."""
        while True:
            for server in self._servers:
                if not server.runs():
                    await self._start(server)
            await asyncio.sleep(self._look_every_s)

    async def _start(self, server: Server) -> None:
        _LOG.error("%s has ended; it is started again", server.name)
        starting = asyncio.create_task(asyncio.to_thread(server.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])  # else it would be stopped before it runs, and go on running afterwards
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other servers and the next look go on
            _LOG.error("%s does not start (%s)", server.name, type(error).__name__)
        else:
            _LOG.info("%s runs again", server.name)
