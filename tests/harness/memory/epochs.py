"""Epochs in memory. In production they are in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.freshness.kinds import Epoch

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource


class InMemoryEpochs:
    """An ``Epochs`` in a dictionary, for a single process."""

    def __init__(self, clock: Clock, ids: IdSource) -> None:
        self._clock = clock
        self._ids = ids
        self._values: dict[UUID, str] = {}

    def read(self, org_id: UUID) -> Epoch:
        """Return the epoch without waiting. Its value is None if the organization has none."""
        return Epoch(self._values.get(org_id), was_read=True, asked_ns=self._clock.monotonic_ns())

    async def read_or_create(self, org_id: UUID) -> Epoch:
        """Return the epoch; see ``Epochs``."""
        self._values.setdefault(org_id, str(self._ids.uuid7()))
        return self.read(org_id)

    async def replace(self, org_id: UUID) -> bool:
        """Replace the epoch; see ``Epochs``."""
        self._values[org_id] = str(self._ids.uuid7())
        return True

    def content(self) -> dict[UUID, str]:
        """Return a copy of all epochs."""
        return dict(self._values)

    def become(self, content: dict[UUID, str]) -> None:
        """Replace all epochs, as a failover or a flush of Redis does."""
        self._values = dict(content)
