"""The rate limiter of the embedded default, which counts in process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ibex.domain.identity.rate_limits import Tally, WindowCounter

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.freshness.kinds import Epoch


class ReadableEpochs(Protocol):
    """Epochs that can be read without waiting."""

    def read(self, org_id: UUID, /) -> Epoch:
        """Return the epoch of an organization."""


class InMemoryRateLimiter:
    """A ``RateLimiter`` for a single process. It never blocks."""

    def __init__(self, epochs: ReadableEpochs) -> None:
        self._epochs = epochs
        self._counter = WindowCounter()

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count one request; see ``RateLimiter``."""
        return Tally(self._counter.count(org_id, now), self._epochs.read(org_id))

    async def epoch(self, org_id: UUID) -> Epoch:
        """Return the epoch; see ``RateLimiter``."""
        return self._epochs.read(org_id)
