"""The contract of ``RateLimiter``."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.redis_observer import RecordingRedisObserver
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.redis.link import RedisLink
from ibex.adapters.redis.rate_limits import RedisRateLimiter
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.identity.rate_limits import RateLimiter

NOW = ManualClock().now()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def limiter(request: pytest.FixtureRequest) -> AsyncIterator[RateLimiter]:
    """Each limiter in turn."""
    if request.param == "memory":
        yield InMemoryRateLimiter(InMemoryEpochs(ManualClock(), SystemIds()))
        return
    clock = SystemClock()
    link = RedisLink(request.getfixturevalue("redis_url"), clock, RecordingRedisObserver(), timeout_s=5.0)
    yield RedisRateLimiter(link, clock)
    await link.close()


@pytest.fixture
def org() -> UUID:
    """An organization without any counted request."""
    return uuid4()


async def test_requests_are_counted_from_one(limiter: RateLimiter, org: UUID) -> None:
    """Each request gets the next number."""
    assert [(await limiter.count(org, NOW)).count for _ in range(3)] == [1, 2, 3]


async def test_organizations_are_counted_separately(limiter: RateLimiter, org: UUID) -> None:
    """A flood of one organization does not change the count of another."""
    for _ in range(50):
        await limiter.count(org, NOW)

    assert (await limiter.count(uuid4(), NOW)).count == 1


async def test_the_count_restarts_with_each_minute(limiter: RateLimiter, org: UUID) -> None:
    """The window is the minute of the clock, not a minute after the first request."""
    minute = NOW.replace(second=0, microsecond=0)

    counts = [(await limiter.count(org, minute + timedelta(seconds=s))).count for s in (0, 59.999999, 60, 61)]

    assert counts == [1, 2, 1, 2]


async def test_concurrent_requests_are_all_counted(limiter: RateLimiter, org: UUID) -> None:
    """Each request gets a different number."""
    tallies = await asyncio.gather(*(limiter.count(org, NOW) for _ in range(100)))

    assert sorted(tally.count for tally in tallies) == list(range(1, 101))


async def test_reading_the_epoch_does_not_count_a_request(limiter: RateLimiter, org: UUID) -> None:
    """Listing models must not use up the rate limit."""
    await limiter.epoch(org)
    await asyncio.gather(limiter.count(org, NOW), limiter.epoch(org))

    assert (await limiter.count(org, NOW)).count == 2


async def test_an_epoch_that_auth_has_not_created_is_absent(limiter: RateLimiter, org: UUID) -> None:
    """Counting a request does not create an epoch. Only auth does."""
    for _ in range(2):
        epoch = (await limiter.count(org, NOW)).epoch
        assert (epoch.value, epoch.was_read) == (None, True)
        epoch = await limiter.epoch(org)
        assert (epoch.value, epoch.was_read) == (None, True)
