"""Rate limits in requests per minute and organization, in windows of a calendar minute."""

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
    """The decision whether a request is allowed, with the details for the client.

    ``limit`` is requests per window, 0 for unlimited. ``reset_unix_s`` is the end of the window in Unix seconds,
    ``retry_after_s`` the seconds until then, 0 if the request is allowed.
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
    """Decide on the ``count``-th request, counted from 1, of the window that ``now`` lies in."""
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
    """An organization's number of requests in the window, including this one, and its epoch."""

    count: int
    epoch: Epoch


class WindowCounter:
    """A counter in one process. It keeps one window, so memory is bounded by the organizations of one minute.

    If the clock is set back, the counter begins a new window. This allows a few requests too many, instead of refusing
    all of them for an hour.
    """

    def __init__(self) -> None:
        self._window = 0
        self._counts: Counter[UUID] = Counter()

    def count(self, org_id: UUID, now: datetime) -> int:
        """Count one request, and return the number of requests in the window, including this one."""
        window = window_of(now)
        if window != self._window:
            self._window = window
            self._counts.clear()
        self._counts[org_id] += 1
        return self._counts[org_id]

    def __len__(self) -> int:
        """Return the number of organizations in the window."""
        return len(self._counts)


class RateLimiter(Protocol):
    """Port: counts requests, and reads the organization's epoch in the same round trip.

    Never raises, and returns within a time limit. An adapter that cannot reach its counter counts in process, reports
    that in a metric, and returns an *unknown* epoch.
    """

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count one request of an organization in the window that ``now`` lies in."""

    async def epoch(self, org_id: UUID) -> Epoch:
        """Read the organization's epoch without counting a request."""
