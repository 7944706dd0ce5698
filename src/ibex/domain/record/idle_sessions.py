"""USE CASE: mark idle sessions as abandoned (ADR 0027). A later turn makes a session active again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.record.sessions import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from ibex.domain.clock import Clock

SWEEP_INTERVAL_S: Final = 60.0
BATCH: Final = 1_000


class IdleSessions(Protocol):
    """Port: the idle sessions of all organizations."""

    async def abandon(self, idle_since: datetime, limit: int) -> int | None:
        """Abandon at most ``limit`` active sessions without a turn since ``idle_since``, oldest first.

        Returns their number, or None if another process is sweeping now. Never abandons a session with a turn within
        the last minute. Can be repeated. Raises ``SinkUnavailableError`` if it cannot be done now.
        """


class SweepObserver(Protocol):
    """Port: receives the outcome of sweeps (metrics, log). Never raises, never blocks."""

    def abandoned(self, sessions: int) -> None:
        """Report the number of sessions that a batch abandoned."""

    def sweep_failed(self, reason: str) -> None:
        """Report a sweep that failed, or ended early. The next one makes up for it."""


class AbandonIdleSessions:
    """Sweeps once a minute. Every worker of every replica runs this; the store admits one of them at a time."""

    def __init__(
        self,
        sessions: IdleSessions,
        clock: Clock,
        observer: SweepObserver,
        *,
        idle_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set ``idle_s``, the seconds without a turn that make a session idle; ``sleep`` waits for seconds."""
        self._sessions = sessions
        self._clock = clock
        self._observer = observer
        self._idle = timedelta(seconds=idle_s)
        self._sleep = sleep

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.sweep()
            await self._sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> None:
        """Abandon the sessions that are idle now, in batches, unless another process is doing so.

        Reports an outage to the observer instead of raising it.
        """
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
