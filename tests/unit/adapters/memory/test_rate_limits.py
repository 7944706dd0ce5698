"""What the limiter that counts in its own process remembers."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.domain.rate_limits import UNLIMITED

ORG = UUID(int=1)
MINUTE = timedelta(minutes=1)


async def test_a_window_that_is_over_is_forgotten() -> None:
    """However many organizations called in the past minutes: memory holds those of one minute."""
    limiter, clock = InMemoryRateLimiter(), ManualClock()
    for minute in range(3):
        for org in range(1_000):
            await limiter.admit(UUID(int=1_000 * minute + org), 10, clock.now())
        assert len(limiter) == 1_000
        clock.advance(MINUTE)
    await limiter.admit(ORG, 10, clock.now())

    assert len(limiter) == 1


async def test_an_organization_without_a_limit_is_not_remembered() -> None:
    """There is nothing to count."""
    limiter, clock = InMemoryRateLimiter(), ManualClock()

    await limiter.admit(ORG, UNLIMITED, clock.now())

    assert len(limiter) == 0


async def test_a_clock_that_was_ahead_for_a_while_refuses_nobody() -> None:
    """Setting it an hour ahead and back begins windows anew, and never counts an hour into one."""
    limiter, clock = InMemoryRateLimiter(), ManualClock()
    start = clock.now()
    for moment in (start, start + timedelta(hours=1), start, start + MINUTE):
        clock.set(moment)
        decisions = [await limiter.admit(ORG, 2, clock.now()) for _ in range(3)]
        assert [decision.allowed for decision in decisions] == [True, True, False]
