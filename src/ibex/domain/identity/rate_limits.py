"""Requests per minute and organization, in calendar-minute windows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.freshness.kinds import Epoch

WINDOW_S = 60
UNLIMITED = 0


@value_object
class RateLimitDecision:
    """Whether a request may go on, and what its client is told of it.

    ``limit`` is requests per window, 0 for unlimited; ``reset_unix_s`` is when the window ends, in Unix seconds.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_unix_s: int
    retry_after_s: int


def window_of(now: datetime) -> int:
    """Return the number of the calendar minute that ``now`` lies in, counted from 1970."""
    return int(now.timestamp()) // WINDOW_S


def decide(*, count: int, limit: int, now: datetime) -> RateLimitDecision:
    """Judge the ``count``-th request (from 1) of the window that ``now`` lies in."""
    unix_s = int(now.timestamp())
    reset = (unix_s // WINDOW_S + 1) * WINDOW_S
    if limit == UNLIMITED:
        return RateLimitDecision(allowed=True, limit=0, remaining=0, reset_unix_s=reset, retry_after_s=0)
    allowed = count <= limit
    return RateLimitDecision(
        allowed=allowed,
        limit=limit,
        remaining=max(0, limit - count),
        reset_unix_s=reset,
        retry_after_s=0 if allowed else reset - unix_s,
    )


@value_object
class Tally:
    """How many requests an organization has made in the window, this one included, and its epoch."""

    count: int
    epoch: Epoch


class WindowCounter:
    """Counts in one process. It remembers one window: its memory is bounded by who called in a minute.

    A clock that is set back begins a window anew: a few requests too many, rather than an hour of refusals.
    """

    def __init__(self) -> None:
        self._window = 0
        self._counts: Counter[UUID] = Counter()

    def count(self, org_id: UUID, now: datetime) -> int:
        """Count one request and return how many there were in the window, this one included."""
        window = window_of(now)
        if window != self._window:
            self._window = window
            self._counts.clear()
        self._counts[org_id] += 1
        return self._counts[org_id]

    def __len__(self) -> int:
        """Return how many organizations are being counted."""
        return len(self._counts)


class RateLimiter(Protocol):
    """Port: counts requests, and reads the organization's epoch in the same round trip.

    Never raises, and answers within a bound. An adapter that cannot reach its counter counts in process, reports that
    in a metric, and returns an *unknown* epoch.
    """

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count one request of an organization in the window that ``now`` lies in."""

    async def epoch(self, org_id: UUID) -> Epoch:
        """Read the organization's epoch without counting a request."""
