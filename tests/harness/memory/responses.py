"""Received responses in memory: a record and a shared cache that can fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ibex.domain.errors import ServiceDegradedError
from ibex.domain.record.received_responses import ReceivedResponse, SharedCacheError

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(slots=True)
class InMemoryResponses:
    """A ``ResponseRecord``, and ``SharedResponses``. ``fails`` makes every lookup raise the port's error."""

    kept: dict[tuple[UUID, str], ReceivedResponse] = field(default_factory=dict)
    fails: bool = False
    asked: int = 0

    async def received(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:
        """Return the response; see ``ResponseRecord``."""
        self.asked += 1
        if self.fails:
            raise ServiceDegradedError
        return self.kept.get((org_id, response_id))

    async def get(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:
        """Return the response; see ``SharedResponses``."""
        self.asked += 1
        if self.fails:
            raise SharedCacheError
        return self.kept.get((org_id, response_id))

    async def put(self, response: ReceivedResponse) -> None:
        """Store a response; see ``SharedResponses``."""
        if not self.fails:
            self.kept[response.org_id, response.id] = response
