"""Epochs for processes without Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.freshness.kinds import unknown_epoch

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.freshness.kinds import Epoch


class NoEpochs:
    """An ``Epochs`` without a store. Changes reach a worker only through the watch.

    An epoch in the memory of a process would prove nothing about changes that the command line makes.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def read(self, _org_id: UUID) -> Epoch:
        """Return an unknown epoch."""
        return unknown_epoch(self._clock.monotonic_ns())

    async def read_or_create(self, org_id: UUID) -> Epoch:  # noqa: ARG002 - see Epochs
        """Return an unknown epoch; see ``Epochs``."""
        return unknown_epoch(self._clock.monotonic_ns())

    async def replace(self, org_id: UUID) -> bool:  # noqa: ARG002 - see Epochs
        """Do nothing, and return False; see ``Epochs``."""
        return False
