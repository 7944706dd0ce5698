"""The lag of the event loop, measured as the delay of a recurring timer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ibex.adapters.telemetry.exposition import Merge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.clock import Clock

INTERVAL_S: Final = 0.1
"""The interval between measurements. It is short enough to show any longer stall; a measurement takes about 10 µs."""
_INTERVAL_NS: Final = int(INTERVAL_S * 1_000_000_000)
_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)


class LoopLag:
    """A background task that measures the event loop's lag and updates the heartbeat that other processes read."""

    def __init__(
        self, registry: Registry, clock: Clock, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Declare the metric. ``sleep`` waits for a number of seconds."""
        self._registry = registry
        self._clock = clock
        self._sleep = sleep
        self._lag = registry.histograms(
            "event_loop_lag_seconds", "Delay of a recurring timer in the event loop.", _BUCKETS, merge=Merge.EACH
        ).of()

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due_ns = self._clock.monotonic_ns() + _INTERVAL_NS
            await self._sleep(INTERVAL_S)
            self._lag.observe(max(0, self._clock.monotonic_ns() - due_ns))
            self._registry.heartbeat()
