"""USE CASE: abandon sessions that nobody goes on with (ADR 0027). A turn that comes later makes one active again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.record.sessions import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from ibex.domain.clock import Clock

LOOK_EVERY_S: Final = 60.0
BATCH: Final = 1_000


class IdleSessions(Protocol):
    """Port: sessions of every organization, as far as they are idle."""

    async def abandon(self, idle_since: datetime, limit: int) -> int | None:
        """Abandon active sessions without a turn since then, the oldest first, and return how many; at most ``limit``.

        One that had a turn within the last minute is left alone, whatever is asked. None if somebody else is at it
        just now. May be repeated. Raises ``SinkUnavailableError`` if it cannot be done now.
        """


class SweepObserver(Protocol):
    """Port: hears of sweeps. Never raises, never blocks."""

    def abandoned(self, sessions: int) -> None:
        """So many sessions were abandoned."""

    def sweep_failed(self, reason: str) -> None:
        """A sweep could not be made, or not to its end; the next one makes up for it."""


class AbandonIdleSessions:
    """Sweeps once a minute. Every worker of every replica has one; the store lets one of them at a time."""

    def __init__(
        self,
        sessions: IdleSessions,
        clock: Clock,
        observer: SweepObserver,
        *,
        idle_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take for how many seconds a session has to be idle, and ``sleep``, which waits for seconds."""
        self._sessions = sessions
        self._clock = clock
        self._observer = observer
        self._idle = timedelta(seconds=idle_s)
        self._sleep = sleep

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.sweep()
            await self._sleep(LOOK_EVERY_S)

    async def sweep(self) -> None:
        """Abandon the sessions that are idle now, in batches, unless another process does. Raises no outage."""
        idle_since = self._clock.now() - self._idle
        count: int | None = BATCH
        while count == BATCH:
            try:
                count = await self._sessions.abandon(idle_since, BATCH)
            except SinkUnavailableError as error:
                self._observer.sweep_failed(str(error))
                return
            if count:
                self._observer.abandoned(count)
