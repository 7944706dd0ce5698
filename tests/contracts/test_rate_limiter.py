"""What every rate limiter keeps."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.domain.rate_limits import UNLIMITED, RateLimitDecision

if TYPE_CHECKING:
    from ibex.domain.rate_limits import RateLimiter


@pytest.fixture(params=[InMemoryRateLimiter])
def limiter(request: pytest.FixtureRequest) -> RateLimiter:
    """Each limiter in turn."""
    made: RateLimiter = request.param()
    return made


@pytest.fixture
def org() -> UUID:
    """An organization that nobody has counted yet."""
    return uuid4()


async def test_what_remains_counts_down_and_then_requests_are_refused(limiter: RateLimiter, org: UUID) -> None:
    """Exactly as many as the limit are allowed; the refused ones are told how long to wait."""
    now = ManualClock().now()
    reset = int(now.timestamp()) // 60 * 60 + 60
    wait = reset - int(now.timestamp())

    decisions = [await limiter.admit(org, 3, now) for _ in range(5)]

    assert [(d.allowed, d.remaining, d.retry_after_s) for d in decisions] == [
        (True, 2, 0),
        (True, 1, 0),
        (True, 0, 0),
        (False, 0, wait),
        (False, 0, wait),
    ]
    assert {(d.limit, d.reset_unix_s) for d in decisions} == {(3, reset)}


async def test_one_organizations_flood_leaves_another_alone(limiter: RateLimiter, org: UUID) -> None:
    """Counts are kept apart."""
    now = ManualClock().now()
    for _ in range(50):
        await limiter.admit(org, 3, now)

    assert (await limiter.admit(uuid4(), 3, now)).remaining == 2


async def test_the_next_minute_begins_anew(limiter: RateLimiter, org: UUID) -> None:
    """At its first moment, not a minute after the first request."""
    clock = ManualClock()
    for _ in range(4):
        await limiter.admit(org, 3, clock.now())
    clock.advance(timedelta(seconds=54, microseconds=999_999))
    assert not (await limiter.admit(org, 3, clock.now())).allowed
    clock.advance(timedelta(microseconds=1))

    assert (await limiter.admit(org, 3, clock.now())).remaining == 2


async def test_without_a_limit_nobody_is_refused(limiter: RateLimiter, org: UUID) -> None:
    """A limit of 0 is none."""
    clock = ManualClock()

    decisions = [await limiter.admit(org, UNLIMITED, clock.now()) for _ in range(50)]

    assert set(decisions) == {
        RateLimitDecision(allowed=True, limit=0, remaining=0, reset_unix_s=decisions[0].reset_unix_s, retry_after_s=0)
    }


async def test_a_limit_that_is_changed_is_in_force_at_once(limiter: RateLimiter, org: UUID) -> None:
    """What was counted under the old one counts."""
    now = ManualClock().now()
    for _ in range(4):
        await limiter.admit(org, 10, now)

    assert not (await limiter.admit(org, 3, now)).allowed
    assert (await limiter.admit(org, 10, now)).remaining == 4


async def test_concurrent_requests_are_all_counted(limiter: RateLimiter, org: UUID) -> None:
    """Not one too many gets in."""
    now = ManualClock().now()

    decisions = await asyncio.gather(*(limiter.admit(org, 40, now) for _ in range(100)))

    assert sum(decision.allowed for decision in decisions) == 40
    assert sorted(decision.remaining for decision in decisions if decision.allowed) == list(range(40))
