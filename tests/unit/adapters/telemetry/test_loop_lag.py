"""Tests of the lag of the event loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta

from harness.memory.clock import ManualClock
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.telemetry.loop_lag import INTERVAL_S, LoopLag
from ibex.adapters.telemetry.registry import Registry


def shown(registry: Registry, name: str) -> float:
    """Return a sample of the lag."""
    for line in registry.render()[0].decode().splitlines():
        if line.startswith(f"t_event_loop_lag_seconds_{name}"):
            return float(line.split()[-1])
    raise AssertionError(name)


async def test_a_blocked_event_loop_is_measured() -> None:
    """The next iteration records the lag in one of the upper buckets."""
    registry = Registry("t_")
    running = asyncio.create_task(LoopLag(registry, SystemClock()).run())
    await asyncio.sleep(0)

    time.sleep(1)  # noqa: ASYNC251 - the test blocks the loop on purpose
    while shown(registry, "count") == 0:  # noqa: ASYNC110 - the lag has no event to wait for
        await asyncio.sleep(INTERVAL_S)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running

    assert shown(registry, 'bucket{worker="0",le="0.5"}') < shown(registry, "count")
    assert shown(registry, "sum") > 0.8


async def test_an_early_timer_counts_as_no_lag() -> None:
    """Two of three timers fire on time or early; only the late one has a lag. Each iteration sends a heartbeat."""
    registry = Registry("t_")
    clock, waits = ManualClock(), iter((INTERVAL_S, INTERVAL_S / 2, INTERVAL_S + 3))
    turns: list[int] = []
    registry.on_refresh(lambda: turns.append(1))

    async def sleep(_: float) -> None:
        try:
            clock.advance(timedelta(seconds=next(waits)))
        except StopIteration:
            raise asyncio.CancelledError from None

    with suppress(asyncio.CancelledError):
        await LoopLag(registry, clock, sleep).run()

    assert len(turns) == 3
    assert shown(registry, "count") == 3
    assert shown(registry, 'bucket{worker="0",le="0.001"}') == 2
    assert round(shown(registry, "sum"), 3) == 3
