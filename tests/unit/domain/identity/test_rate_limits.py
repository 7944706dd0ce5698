"""Rate limits in windows of a calendar minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.memory.clock import ManualClock
from ibex.domain.identity.rate_limits import UNLIMITED, WINDOW_S, RateLimitDecision, WindowCounter, decide, window_of

MINUTE = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive


@pytest.mark.parametrize(
    ("offset", "reset_in"),
    [
        (timedelta(), 60),
        (timedelta(microseconds=1), 60),
        (timedelta(seconds=1), 59),
        (timedelta(seconds=59), 1),
        (timedelta(seconds=59, microseconds=999_999), 1),
    ],
)
def test_a_refused_client_waits_for_the_end_of_the_window(offset: timedelta, reset_in: int) -> None:
    """Retry-After is the whole seconds until the next calendar minute, and never 0."""
    decision = decide(count=11, limit=10, now=MINUTE + offset)

    assert decision == RateLimitDecision(
        allowed=False,
        limit=10,
        remaining=0,
        reset_unix_s=int(MINUTE.timestamp()) + 60,
        retry_after_s=reset_in,
    )


@pytest.mark.parametrize(("count", "allowed", "remaining"), [(1, True, 9), (9, True, 1), (10, True, 0), (11, False, 0)])
def test_the_request_that_reaches_the_limit_is_the_last_one(count: int, remaining: int, *, allowed: bool) -> None:
    """Exactly ``limit`` requests are allowed, and the remaining number decreases to 0."""
    decision = decide(count=count, limit=10, now=MINUTE)

    assert (decision.allowed, decision.remaining) == (allowed, remaining)


def test_a_limit_of_zero_allows_every_request() -> None:
    """The limit is reported as 0."""
    decision = decide(count=10**9, limit=UNLIMITED, now=MINUTE)

    assert (decision.allowed, decision.limit, decision.remaining, decision.retry_after_s) == (True, 0, 0, 0)


def test_windows_are_calendar_minutes() -> None:
    """A window begins with the minute and ends before the next one. Time zones make no difference."""
    last = MINUTE + timedelta(seconds=59, microseconds=999_999)

    assert window_of(MINUTE) == window_of(last) == window_of(MINUTE + timedelta(minutes=1)) - 1
    assert window_of(datetime.fromisoformat("2026-03-04T05:06:00+00:00")) == window_of(
        datetime.fromisoformat("2026-03-04T10:36:00+05:30")
    )


@given(count=st.integers(1, 10**9), limit=st.integers(1, 10**6), now=TIMES)
def test_every_decision_is_consistent(count: int, limit: int, now: datetime) -> None:
    """For any count, limit and time, the bounds hold, and only a refusal has a delay."""
    decision = decide(count=count, limit=limit, now=now)

    assert decision.allowed is (count <= limit)
    assert 0 <= decision.remaining < limit
    assert 0 < decision.reset_unix_s - now.timestamp() <= WINDOW_S
    assert decision.retry_after_s in (range(1) if decision.allowed else range(1, WINDOW_S + 1))
    assert decision.reset_unix_s % WINDOW_S == 0


def test_an_expired_window_is_removed() -> None:
    """Memory contains the organizations of one minute, however many called in earlier minutes."""
    counter, clock = WindowCounter(), ManualClock()
    for minute in range(3):
        for org in range(1_000):
            counter.count(UUID(int=1_000 * minute + org), clock.now())
        assert len(counter) == 1_000
        clock.advance(timedelta(minutes=1))
    counter.count(UUID(int=1), clock.now())

    assert len(counter) == 1


def test_setting_the_clock_ahead_and_back_causes_no_refusals() -> None:
    """Setting it an hour ahead and back begins new windows, and never counts an hour in one."""
    counter, start = WindowCounter(), ManualClock().now()
    for moment in (start, start + timedelta(hours=1), start, start + timedelta(minutes=1)):
        assert [counter.count(UUID(int=1), moment) for _ in range(3)] == [1, 2, 3]
