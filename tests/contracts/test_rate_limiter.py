"""What every rate limiter keeps."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from harness.redis_observer import RecordingRedisObserver
from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.redis.link import RedisLink
from ibex.adapters.redis.rate_limits import RedisRateLimiter
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds
from ibex.domain.freshness import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.rate_limits import RateLimiter

NOW = ManualClock().now()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.integration)])
async def limiter(request: pytest.FixtureRequest) -> AsyncIterator[RateLimiter]:
    """Each limiter in turn."""
    if request.param == "memory":
        yield InMemoryRateLimiter(InMemoryBoard(ManualClock(), SystemIds()).news)
        return
    clock = SystemClock()
    link = RedisLink(request.getfixturevalue("redis_url"), clock, RecordingRedisObserver(), timeout_s=5.0)
    yield RedisRateLimiter(link, clock, SystemIds())
    await link.close()


@pytest.fixture
def org() -> UUID:
    """An organization that nobody has counted yet."""
    return uuid4()


async def test_requests_are_counted_from_one(limiter: RateLimiter, org: UUID) -> None:
    """Each with its own number."""
    assert [(await limiter.count(org, NOW)).count for _ in range(3)] == [1, 2, 3]


async def test_one_organizations_flood_leaves_another_alone(limiter: RateLimiter, org: UUID) -> None:
    """Counts are kept apart."""
    for _ in range(50):
        await limiter.count(org, NOW)

    assert (await limiter.count(uuid4(), NOW)).count == 1


async def test_the_next_minute_begins_anew(limiter: RateLimiter, org: UUID) -> None:
    """At its first moment, not a minute after the first request."""
    minute = NOW.replace(second=0, microsecond=0)

    counts = [(await limiter.count(org, minute + timedelta(seconds=s))).count for s in (0, 59.999999, 60, 61)]

    assert counts == [1, 2, 1, 2]


async def test_concurrent_requests_are_all_counted(limiter: RateLimiter, org: UUID) -> None:
    """Each has a number that no other has."""
    tallies = await asyncio.gather(*(limiter.count(org, NOW) for _ in range(100)))

    assert sorted(tally.count for tally in tallies) == list(range(1, 101))


async def test_asking_for_news_counts_nothing(limiter: RateLimiter, org: UUID) -> None:
    """Listing models is free."""
    await limiter.news(org)
    await asyncio.gather(limiter.count(org, NOW), limiter.news(org))

    assert (await limiter.count(org, NOW)).count == 2


async def test_generations_that_are_missing_are_made_and_stay(limiter: RateLimiter, org: UUID) -> None:
    """Whoever misses them; two organizations never have the same."""
    first = (await limiter.news(org)).generations

    assert set(first) == set(Kind)
    assert (await limiter.count(org, NOW)).news.generations == first
    assert not set(first.values()) & set((await limiter.news(uuid4())).generations.values())


async def test_nobody_vouches_for_anything_yet(limiter: RateLimiter, org: UUID) -> None:
    """Without a lease no generation confirms anything."""
    news = (await limiter.count(org, NOW)).news

    assert news.lease is None
    assert [news.stamp(kind) for kind in Kind] == [None, None, None]
