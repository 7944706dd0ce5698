"""USE CASE: deliver what a process that does not come back has left in its journal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.record.journal import JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ibex.domain.record.delivery import DeliverExchanges
    from ibex.domain.record.journal import Journal
    from ibex.domain.record.recorder import Recorder

LOOK_EVERY_S: Final = 5.0


class OrphanedJournals(Protocol):
    """Port: journals whose process is gone, with something left in them."""

    async def take(self) -> Journal | None:
        """Return one of them, opened and now this process's; None if there is none. Raises nothing."""

    async def give_back(self, journal: Journal) -> None:
        """Close a journal that was taken. If something is left in it, it can be taken again."""


class RecoverJournals:
    """Looks for journals that were left, settles what was begun in them, and delivers all of it."""

    def __init__(
        self,
        left: OrphanedJournals,
        recorder: Recorder,
        deliveries: Callable[[Journal], Sequence[DeliverExchanges]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take what makes the deliveries of a journal, one a sink."""
        self._left = left
        self._recorder = recorder
        self._deliveries = deliveries
        self._sleep = sleep

    async def run(self) -> None:
        """Adopt until cancelled."""
        while True:
            journal = await self._left.take()
            if journal is None:
                await self._sleep(LOOK_EVERY_S)
                continue
            try:
                await self._recorder.recover(journal)
                await asyncio.gather(*(delivery.run_dry() for delivery in self._deliveries(journal)))
            except JournalUnavailableError:
                await self._sleep(LOOK_EVERY_S)
            finally:
                await self._left.give_back(journal)
