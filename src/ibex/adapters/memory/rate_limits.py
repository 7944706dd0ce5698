"""A rate limiter that counts in its own process: the embedded default's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.rate_limits import Tally, WindowCounter

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.freshness import News


class InMemoryRateLimiter:
    """A ``RateLimiter`` for one process."""

    def __init__(self, news_of: Callable[[UUID], News]) -> None:
        """Take where the news are; they are asked for at each request, without waiting."""
        self._news_of = news_of
        self._counter = WindowCounter()

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count one request; see ``RateLimiter``. Never waits."""
        return Tally(self._counter.count(org_id, now), self._news_of(org_id))

    async def news(self, org_id: UUID) -> News:
        """Return the organization's news; see ``RateLimiter``. Never waits."""
        return self._news_of(org_id)
