"""Whether the event loop keeps up: how late a timer comes that is always running."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ibex.adapters.telemetry.exposition import Merge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.clock import Clock

EVERY_S: Final = 0.1
"""Often enough to see what blocks for longer; ten times a second some ten microseconds are nothing."""
_EVERY_NS: Final = int(EVERY_S * 1_000_000_000)
_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)


class LoopLag:
    """Measures its own lateness, and keeps the heartbeat that other processes read."""

    def __init__(
        self, registry: Registry, clock: Clock, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Take ``sleep``, which waits for seconds."""
        self._registry = registry
        self._clock = clock
        self._sleep = sleep
        self._lag = registry.histograms(
            "event_loop_lag_seconds", "How late a timer of the event loop came.", _BUCKETS, merge=Merge.EACH
        ).of()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            due_ns = self._clock.monotonic_ns() + _EVERY_NS
            await self._sleep(EVERY_S)
            self._lag.observe(max(0, self._clock.monotonic_ns() - due_ns))
            self._registry.turned()
