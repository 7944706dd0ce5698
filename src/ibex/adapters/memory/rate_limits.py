"""A rate limiter that counts in its own process: the embedded default's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ibex.domain.rate_limits import UNLIMITED, decide, window_of

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.rate_limits import RateLimitDecision


class InMemoryRateLimiter:
    """A ``RateLimiter`` for one process. It remembers one window: its memory is bounded by who called in a minute.

    A clock that is set back begins a window anew: a few requests too many, rather than an hour of refusals.
    """

    def __init__(self) -> None:
        self._window = 0
        self._counts: Counter[UUID] = Counter()

    async def admit(self, org_id: UUID, limit: int, now: datetime) -> RateLimitDecision:
        """Count one request and judge it; see ``RateLimiter``. Never waits."""
        window = window_of(now)
        if window != self._window:
            self._window = window
            self._counts.clear()
        if limit != UNLIMITED:
            self._counts[org_id] += 1
        return decide(count=self._counts[org_id], limit=limit, now=now)

    def __len__(self) -> int:
        """Return how many organizations are being counted."""
        return len(self._counts)
