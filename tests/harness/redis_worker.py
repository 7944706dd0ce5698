"""A worker's side of Redis, with a manual clock and a recording observer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from harness.memory.clock import ManualClock
from harness.redis_observer import RecordingRedisObserver
from ibex.adapters.redis.epochs import RedisEpochs
from ibex.adapters.redis.link import RedisLink
from ibex.adapters.redis.rate_limits import RedisRateLimiter
from ibex.adapters.redis.shared_directives import RedisSharedDirectives
from ibex.adapters.redis.shared_responses import PURPOSE, RedisSharedResponses
from ibex.adapters.system.ids import SystemIds
from ibex.domain.directives.seal import Seal

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.identity.rate_limits import Tally

UNHURRIED_S = 10.0
"""A bound for tests that are about something else."""


class RedisWorker:
    """A link, and everything that uses it. ``clock`` measures the age of readings and stays within one minute."""

    def __init__(self, url: str, timeout_s: float = UNHURRIED_S, clock: Clock | None = None) -> None:
        self.clock = ManualClock()
        real = self.clock if clock is None else clock
        self.heard = RecordingRedisObserver()
        self.link = RedisLink(url, real, self.heard, timeout_s=timeout_s)
        self.limiter = RedisRateLimiter(self.link, real)
        self.epochs = RedisEpochs(self.link, real, SystemIds())
        self.unverified = 0
        self.directives = RedisSharedDirectives(
            self.link, self.clock, Seal(b"a key of this test"), 60, self._count_unverified
        )
        seal = Seal(b"a key of this test", PURPOSE)
        self.responses = RedisSharedResponses(self.link, self.clock, seal, self._count_unverified)

    def _count_unverified(self) -> None:
        self.unverified += 1

    async def count(self, org_id: UUID) -> Tally:
        """Count a request in the present minute."""
        return await self.limiter.count(org_id, self.clock.now())

    async def depart(self, org_id: UUID) -> asyncio.Task[Tally]:
        """Count in a separate turn of the event loop; return once the calls of that turn are sent, or queued."""
        asking = asyncio.create_task(self.count(org_id))
        for _ in range(3):  # the task asks, the link departs, the trip sends
            await asyncio.sleep(0)
        return asking
