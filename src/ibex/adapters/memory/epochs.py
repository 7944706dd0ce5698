"""Epochs in a dictionary: what Redis keeps for many processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.freshness.kinds import Epoch, unknown_epoch

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource


class InMemoryEpochs:
    """The ``Epochs`` of one process."""

    def __init__(self, clock: Clock, ids: IdSource) -> None:
        self._clock = clock
        self._ids = ids
        self._values: dict[UUID, str] = {}

    def read(self, org_id: UUID) -> Epoch:
        """Read an epoch at once."""
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
        """Hold other epochs: those of a replica, or none after a flush."""
        self._values = dict(content)


class NoEpochs:
    """The ``Epochs`` of a process that has no store for them: the watch alone makes its changes known."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def read_or_create(self, org_id: UUID) -> Epoch:  # noqa: ARG002 - see Epochs
        """Return an unknown epoch."""
        return unknown_epoch(self._clock.monotonic_ns())

    async def replace(self, org_id: UUID) -> bool:  # noqa: ARG002 - see Epochs
        """Do nothing."""
        return False
