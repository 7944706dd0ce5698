"""The contract of ``Clock``."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

import pytest

from harness.memory.clock import ManualClock
from ibex.adapters.system.clock import SystemClock

if TYPE_CHECKING:
    from ibex.domain.clock import Clock

CLOCKS = [ManualClock, SystemClock]


@pytest.mark.parametrize("make", CLOCKS)
def test_wall_clock_time_is_utc(make: type[Clock]) -> None:
    """The time has a time zone, so it can be compared and stored."""
    assert make().now().tzinfo is UTC


@pytest.mark.parametrize("make", CLOCKS)
def test_monotonic_time_never_goes_back(make: type[Clock]) -> None:
    """The time is an integer number of nanoseconds."""
    clock = make()
    times = [clock.monotonic_ns() for _ in range(1_000)]

    assert times == sorted(times)
    assert all(type(time) is int for time in times)
