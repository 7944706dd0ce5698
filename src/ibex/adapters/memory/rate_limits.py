"""The rate limiter of the embedded default, which counts in process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.identity.rate_limits import Tally, WindowCounter

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ibex.adapters.memory.epochs import InMemoryEpochs
    from ibex.domain.freshness.kinds import Epoch


class InMemoryRateLimiter:
    """A ``RateLimiter`` for a single process. It never blocks."""

    def __init__(self, epochs: InMemoryEpochs) -> None:
        self._epochs = epochs
        self._counter = WindowCounter()

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count one request; see ``RateLimiter``."""
        return Tally(self._counter.count(org_id, now), self._epochs.read(org_id))

    async def epoch(self, org_id: UUID) -> Epoch:
        """Return the epoch; see ``RateLimiter``."""
        return self._epochs.read(org_id)
