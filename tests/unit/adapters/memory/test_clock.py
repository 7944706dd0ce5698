"""The clock that is moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.adapters.memory.clock import ManualClock


def test_it_stands_still() -> None:
    """Reading it moves nothing."""
    clock = ManualClock()

    assert clock.now() == clock.now()
    assert clock.monotonic_ns() == clock.monotonic_ns()


@given(st.lists(st.timedeltas(timedelta(), timedelta(days=1_000)), max_size=5))
def test_advancing_moves_both_times_by_the_same(durations: list[timedelta]) -> None:
    """To the microsecond, also over many days."""
    clock = ManualClock()
    start = clock.now()

    for duration in durations:
        clock.advance(duration)

    assert clock.now() - start == sum(durations, timedelta())
    assert timedelta(microseconds=clock.monotonic_ns() // 1_000) == sum(durations, timedelta())


@pytest.mark.parametrize("hours", [-1, 1])
def test_setting_moves_the_wall_clock_alone(hours: int) -> None:
    """As on a machine whose clock is set: durations are not touched."""
    clock = ManualClock()
    target = clock.now() + timedelta(hours=hours)

    clock.set(target)

    assert (clock.now(), clock.monotonic_ns()) == (target, 0)


def test_time_does_not_go_backwards() -> None:
    """What would make monotonic time go back is refused, and moves nothing."""
    clock = ManualClock()
    before = clock.now()

    with pytest.raises(ValueError, match="forward"):
        clock.advance(timedelta(microseconds=-1))
    assert (clock.now(), clock.monotonic_ns()) == (before, 0)


def test_a_time_without_a_zone_is_refused() -> None:
    """It would mean something else on another machine."""
    with pytest.raises(ValueError, match="time zone"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused


def test_any_zone_is_told_in_utc() -> None:
    """As the port says."""
    clock = ManualClock(datetime(2026, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))))

    assert clock.now() == datetime(2026, 1, 1, tzinfo=UTC)
    assert clock.now().tzinfo is UTC
