"""Rate limits in Redis; the same round trip reads the organization's epoch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ibex.adapters.redis.keys import COUNT, epoch_key, window_key
from ibex.domain.freshness.kinds import Epoch, unknown_epoch
from ibex.domain.identity.rate_limits import Tally, WindowCounter, window_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from ibex.adapters.redis.connection import Command
    from ibex.adapters.redis.link import RedisLink, RedisReply
    from ibex.domain.clock import Clock


class RedisRateLimiter:
    """A ``RateLimiter``. While Redis does not answer, each worker counts in process and enforces the whole limit."""

    def __init__(self, link: RedisLink, clock: Clock, on_fallback: Callable[[], None] = lambda: None) -> None:
        """Set ``on_fallback``, which is called for each request that is counted in process."""
        self._link = link
        self._clock = clock
        self._fallback = WindowCounter()
        self._on_fallback = on_fallback

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count one request and read the epoch, in one round trip; see ``RateLimiter``."""
        minute = window_of(now)
        asked_ns = self._clock.monotonic_ns()
        answer, place = await self._link.execute(org_id, (org_id.int, minute), partial(_command, org_id, minute))
        if answer is None:
            self._on_fallback()
            return Tally(self._fallback.count(org_id, now), unknown_epoch(asked_ns))
        return Tally(answer.reply[0] - answer.callers + place, _epoch(answer))

    async def epoch(self, org_id: UUID) -> Epoch:
        """Read the organization's epoch; see ``RateLimiter``."""
        asked_ns = self._clock.monotonic_ns()
        answer, _ = await self._link.execute(org_id, org_id.int, lambda _: _command(org_id, 0, 0))
        return unknown_epoch(asked_ns) if answer is None else _epoch(answer)


def _command(org_id: UUID, minute: int, requests: int) -> Command:
    return COUNT.call((window_key(org_id, minute), epoch_key(org_id)), requests)


def _epoch(answer: RedisReply) -> Epoch:
    if answer.parsed is None:
        value = answer.reply[1]
        # Epochs are only compared, so that any bytes will do.
        text = None if value is None else value.decode(errors="surrogateescape")
        answer.parsed = Epoch(text, was_read=True, asked_ns=answer.asked_ns)
    epoch: Epoch = answer.parsed
    return epoch
