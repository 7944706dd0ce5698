"""USE CASE: recover orphaned journals. Deliver the exchanges that a dead process has left in its journal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.record.journal import JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ibex.domain.record.delivery import DeliverExchanges
    from ibex.domain.record.journal import Journal

SCAN_INTERVAL_S: Final = 5.0


class OrphanedJournals(Protocol):
    """Port: the journals of dead processes that still contain exchanges."""

    async def take(self) -> Journal | None:
        """Open one of them for this process and return it, or None if no orphan is left. Never raises."""

    async def give_back(self, journal: Journal) -> None:
        """Close a journal that was taken. If it still contains exchanges, it can be taken again."""


class RecordsUnfinished(Protocol):
    """The part of a ``Recorder`` that a recovery needs."""

    async def recover(self, journal: Journal) -> None:
        """Record the exchanges that were begun in this journal; see ``Recorder``."""


class RecoverJournals:
    """Takes orphaned journals, records the exchanges that were begun in them, and delivers all exchanges."""

    def __init__(
        self,
        orphaned: OrphanedJournals,
        recorder: RecordsUnfinished,
        deliveries: Callable[[Journal], Sequence[DeliverExchanges]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set ``deliveries``, which returns the deliveries of a journal, one per sink; ``sleep`` waits for seconds."""
        self._orphaned = orphaned
        self._recorder = recorder
        self._deliveries = deliveries
        self._sleep = sleep

    async def run(self) -> None:
        """Recover journals until cancelled."""
        while True:
            await self.drain()
            await self._sleep(SCAN_INTERVAL_S)

    async def drain(self) -> None:
        """Recover journals until none is left. Retries without limit."""
        while (journal := await self._orphaned.take()) is not None:
            try:
                await self._recorder.recover(journal)
                await asyncio.gather(*(delivery.drain() for delivery in self._deliveries(journal)))
            except JournalUnavailableError:
                await self._sleep(SCAN_INTERVAL_S)
            finally:
                await self._orphaned.give_back(journal)
