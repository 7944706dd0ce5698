"""Tests of the system clock. ``tests/contracts`` has the tests that every clock passes."""

from __future__ import annotations

import time

from ibex.adapters.system.clock import SystemClock


def test_the_clock_returns_the_systems_time() -> None:
    """Each time is between two readings of the system's own clock."""
    clock = SystemClock()

    before = time.time_ns() // 1_000, time.monotonic_ns()
    now = clock.now(), clock.monotonic_ns()
    after = time.time_ns() // 1_000 + 1, time.monotonic_ns()

    assert before[0] <= round(now[0].timestamp() * 1_000_000) <= after[0]
    assert before[1] <= now[1] <= after[1]
