"""A rate limiter that counts in its own process: the embedded default's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ibex.domain.rate_limits import Tally, window_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.freshness import News


class InMemoryRateLimiter:
    """A ``RateLimiter`` for one process. It remembers one window: its memory is bounded by who called in a minute.

    A clock that is set back begins a window anew: a few requests too many, rather than an hour of refusals.
    """

    def __init__(self, news_of: Callable[[UUID], News]) -> None:
        """Take where the news are; they are asked for at each request, without waiting."""
        self._news_of = news_of
        self._window = 0
        self._counts: Counter[UUID] = Counter()

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count one request; see ``RateLimiter``. Never waits."""
        window = window_of(now)
        if window != self._window:
            self._window = window
            self._counts.clear()
        self._counts[org_id] += 1
        return Tally(self._counts[org_id], self._news_of(org_id))

    async def news(self, org_id: UUID) -> News:
        """Return the organization's news; see ``RateLimiter``. Never waits."""
        return self._news_of(org_id)

    def __len__(self) -> int:
        """Return how many organizations are being counted."""
        return len(self._counts)
