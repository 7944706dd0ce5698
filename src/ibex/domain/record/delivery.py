"""USE CASE: carry exchanges from the journal to one sink, in batches, until the process ends.

At least once, and in effect exactly once: a batch is acknowledged after the sink has it, comes again with the same
members and token until then, and both sinks recognize what they already hold (ADR 0026). A batch that a sink refuses
for what is in it is halved until the row that it will never take stands alone; that one is laid aside.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from ibex.domain.record.journal import JournalUnavailableError, Sink
from ibex.domain.record.sessions import SinkRefusedError, SinkUnavailableError, checkpoint_of
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ibex.domain.clock import Clock
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.journal import Batch, Journal
    from ibex.domain.record.sessions import SessionStore
    from ibex.domain.record.traces import TraceSink

T = TypeVar("T")

BATCH_ROWS: Final = 1_000
ROWS_PER_PIECE: Final = 50
LINGER_S: Final = 0.2
IDLE_S: Final = 5.0
FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 5.0


class DeliveryObserver(Protocol):
    """Port: hears how delivery goes (metrics, log). Quick; never raises, never blocks."""

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """A batch of so many exchanges was taken by the sink."""

    def failed(self, sink: Sink, rows: int, reason: str) -> None:
        """A batch could not be delivered; it will be tried again. ``rows`` is 0 where the journal could not give one.

        ``reason`` holds no row's content.
        """

    def dead_lettered(self, sink: Sink, reason: str) -> None:
        """An exchange was laid aside, since the sink will never take it."""


async def _rows(batch: Batch, row_of: Callable[[Exchange], T | None]) -> list[T]:
    """Return the rows that a batch leaves; made in pieces, so that requests do not wait while there are many."""
    rows: list[T] = []
    for start in range(0, len(batch.exchanges), ROWS_PER_PIECE):
        await asyncio.sleep(0)
        made = map(row_of, batch.exchanges[start : start + ROWS_PER_PIECE])
        rows.extend(row for row in made if row is not None)
    return rows


@dataclass(frozen=True, slots=True)
class CheckpointDelivery:
    """Takes batches to the session store."""

    store: SessionStore
    sink: Sink = Sink.CHECKPOINTS

    async def deliver(self, batch: Batch) -> None:
        """Store the checkpoints of a batch."""
        checkpoints = await _rows(batch, checkpoint_of)
        if checkpoints:
            await self.store.append(checkpoints)


@dataclass(frozen=True, slots=True)
class TraceDelivery:
    """Takes batches to the trace sink."""

    traces: TraceSink
    sink: Sink = Sink.TRACES

    async def deliver(self, batch: Batch) -> None:
        """Store the traces of a batch."""
        rows = await _rows(batch, trace_of)
        if rows:
            await self.traces.write(rows, batch.token)


class DeliverExchanges:
    """Delivers to one sink. Retries have no last attempt; their delays are jittered and capped."""

    def __init__(
        self,
        journal: Journal,
        delivery: CheckpointDelivery | TraceDelivery,
        observer: DeliveryObserver,
        clock: Clock,
        *,
        jitter: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take ``jitter`` as a source of numbers in [0, 1)."""
        self._journal = journal
        self._delivery = delivery
        self._observer = observer
        self._clock = clock
        self._jitter = jitter
        self._sleep = sleep
        self._failures = 0

    async def run(self) -> None:
        """Deliver until cancelled. A batch that is being delivered then is delivered again after a restart."""
        while True:
            if await self.deliver_next() is False:
                await self._sleep(self._delay_s())
            elif self._journal.depth(self._delivery.sink) < BATCH_ROWS:
                await self._journal.wait_for_more(self._delivery.sink, IDLE_S)
                # What is appended meanwhile shares the batch: a row at a time, neither sink would keep up.
                await self._sleep(LINGER_S)

    async def run_dry(self) -> None:
        """Deliver until nothing is left."""
        while (outcome := await self.deliver_next()) is not None:
            if not outcome:
                await self._sleep(self._delay_s())

    async def flush(self) -> None:
        """Deliver what is there now and return; at the first failure too, since the journal keeps the rest."""
        while await self.deliver_next():
            pass

    async def deliver_next(self) -> bool | None:
        """Deliver one batch: True if the sink took it, False if it could not, None if there was nothing."""
        sink = self._delivery.sink
        rows = 0
        try:
            batch = await self._journal.next_batch(sink, BATCH_ROWS)
            if batch is None:
                return None
            rows = len(batch.exchanges)
            started = self._clock.monotonic_ns()
            await self._deliver(batch)
            await self._journal.acknowledge(sink, batch)
        except (SinkUnavailableError, JournalUnavailableError) as error:
            return self._failed(rows, str(error))
        except Exception as error:  # noqa: BLE001 - a bug in a sink must not end its delivery; its message may hold a row
            return self._failed(rows, type(error).__name__)
        self._failures = 0
        self._observer.delivered(sink, rows, self._clock.monotonic_ns() - started)
        return True

    async def _deliver(self, batch: Batch) -> None:
        try:
            await self._delivery.deliver(batch)
        except SinkRefusedError as refusal:
            if len(batch.exchanges) > 1:
                for half in batch.halves():
                    await self._deliver(half)
                return
            for exchange in batch.exchanges:
                await self._journal.dead_letter(self._delivery.sink, exchange, str(refusal))
            self._observer.dead_lettered(self._delivery.sink, str(refusal))

    def _failed(self, rows: int, reason: str) -> bool:
        self._failures += 1
        self._observer.failed(self._delivery.sink, rows, reason)
        return False

    def _delay_s(self) -> float:
        longest = min(LAST_RETRY_S, FIRST_RETRY_S * (1 << min(self._failures, 10)))
        return longest * (0.5 + self._jitter() / 2)
