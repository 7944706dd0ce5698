"""A journal in a list."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ibex.domain.journal import Batch, JournalUnavailableError, Sink

if TYPE_CHECKING:
    from ibex.domain.exchange import Exchange

MOST: Final = 100_000


class InMemoryJournal:
    """A ``Journal`` of this process; gone with it. Above ``most`` exchanges waiting, ``append`` refuses."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._exchanges: list[Exchange] = []
        self._forgotten = 0
        self._acknowledged = dict.fromkeys(Sink, 0)
        self._fixed: dict[Sink, Batch] = {}
        self._more = {sink: asyncio.Event() for sink in Sink}

    async def append(self, exchange: Exchange) -> None:
        """Take the exchange. Raises ``JournalUnavailableError`` if the journal is full."""
        if len(self._exchanges) >= self._most:
            raise JournalUnavailableError(f"the journal holds its maximum of {self._most:,} exchanges")
        self._exchanges.append(exchange)
        for event in self._more.values():
            event.set()

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return the sink's next batch, the same one until it is acknowledged; None if there is nothing."""
        if self.depth(sink) == 0:
            return None
        if sink not in self._fixed:
            first = self._acknowledged[sink]
            last = min(first + limit, self._last())
            members = self._exchanges[first - self._forgotten : last - self._forgotten]
            self._fixed[sink] = Batch(f"memory-{first + 1}-{last}", last, members)
        return self._fixed[sink]

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Move the sink on and forget what every sink has; a batch that it has already changes nothing."""
        if batch.last_position <= self._acknowledged[sink]:
            return
        self._acknowledged[sink] = batch.last_position
        self._fixed.pop(sink, None)
        everybody_has = min(self._acknowledged.values())
        del self._exchanges[: everybody_has - self._forgotten]
        self._forgotten = everybody_has

    async def wait_for_more(self, sink: Sink, timeout_s: float) -> None:
        """Return once there is something that the sink has not acknowledged, or after the timeout in seconds."""
        event = self._more[sink]
        event.clear()
        if self.depth(sink):
            return
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass

    def depth(self, sink: Sink) -> int:
        """Return how many exchanges the sink has not acknowledged."""
        return self._last() - self._acknowledged[sink]

    def _last(self) -> int:
        return self._forgotten + len(self._exchanges)
