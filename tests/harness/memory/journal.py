"""A journal in a list."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ibex.domain.record.journal import Batch, JournalUnavailableError, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from ibex.domain.record.exchange import Exchange

MOST: Final = 100_000


class InMemoryJournal:
    """An in-memory ``Journal``. It holds at most ``most`` waiting exchanges."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._exchanges: list[Exchange] = []
        self._forgotten = 0
        self._acknowledged = dict.fromkeys(Sink, 0)
        self._fixed: dict[Sink, Batch] = {}
        self._more = {sink: asyncio.Event() for sink in Sink}
        self.begun: dict[UUID, Exchange] = {}
        self._appending: set[asyncio.Task[None]] = set()
        self.dead_lettered: list[tuple[Sink, Exchange, str]] = []
        self.traces_dropped = 0

    def begin(self, exchange: Exchange) -> None:
        """Record an exchange that is in flight."""
        self.begun[exchange.id] = exchange

    def unfinished(self) -> Sequence[Exchange]:
        """Return nothing: the in-flight exchanges of an in-memory journal end with its process."""
        return ()

    def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        """Append the exchange in the next iteration of the loop. ``done`` gets the error if the journal is full."""
        task = asyncio.create_task(self._append(exchange, done))
        self._appending.add(task)
        task.add_done_callback(self._appending.discard)

    async def _append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        self.begun.pop(exchange.id, None)
        if len(self._exchanges) >= self._most:
            await self._drop_traces()
        if len(self._exchanges) >= self._most:
            done(JournalUnavailableError(f"the journal holds its maximum of {self._most:,} exchanges"))
            return
        self._exchanges.append(exchange)
        for event in self._more.values():
            event.set()
        done(None)

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return the sink's next batch, the same one until it is acknowledged; None if nothing waits."""
        if self.depth(sink) == 0:
            return None
        if sink not in self._fixed:
            first = self._acknowledged[sink]
            last = min(first + limit, self._last())
            members = self._exchanges[first - self._forgotten : last - self._forgotten]
            self._fixed[sink] = Batch(f"memory-{first + 1}-{last}", last, members)
        return self._fixed[sink]

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Advance the sink and forget what every sink has. Acknowledging a batch again changes nothing."""
        if batch.last_position <= self._acknowledged[sink]:
            return
        self._acknowledged[sink] = batch.last_position
        self._fixed.pop(sink, None)
        everybody_has = min(self._acknowledged.values())
        del self._exchanges[: everybody_has - self._forgotten]
        self._forgotten = everybody_has

    async def dead_letter(self, sink: Sink, exchange: Exchange, reason: str) -> None:
        """Keep the exchange with the other dead letters."""
        self.dead_lettered.append((sink, exchange, reason))

    async def wait_for_more(self, sink: Sink, timeout_s: float) -> None:
        """Return once an exchange waits for the sink, or after the timeout in seconds."""
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

    async def _drop_traces(self) -> None:
        first, last = self._acknowledged[Sink.TRACES], self._acknowledged[Sink.CHECKPOINTS]
        fixed = self._fixed.get(Sink.TRACES)
        if first < last:
            through = max(first + 1, fixed.last_position if fixed else 0)
            self.traces_dropped += through - first
            await self.acknowledge(Sink.TRACES, Batch("", through, ()))

    def _last(self) -> int:
        return self._forgotten + len(self._exchanges)
