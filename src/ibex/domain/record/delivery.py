"""USE CASE: deliver exchanges from the journal to one sink, in batches, until the process ends.

Delivery is at least once, and in effect exactly once. A batch is acknowledged after the sink has stored it. Until then
the journal returns it again with the same members and token, and both sinks recognize rows that they have (ADR 0026).
A batch that a sink refuses because of its content is halved until the refused row is alone. That row becomes a dead
letter.
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
ROWS_PER_CHUNK: Final = 50
LINGER_S: Final = 0.2
IDLE_S: Final = 5.0
FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 5.0


class DeliveryObserver(Protocol):
    """Port: receives the outcome of each delivery (metrics, log). Quick; never raises, never blocks."""

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """Report that the sink stored a batch of ``rows`` exchanges in ``duration_ns`` nanoseconds."""

    def failed(self, sink: Sink, rows: int, reason: str) -> None:
        """Report a failed batch, which will be retried. ``rows`` is 0 if the journal could not return a batch.

        ``reason`` contains no content of a row.
        """

    def dead_lettered(self, sink: Sink, reason: str) -> None:
        """Report an exchange that became a dead letter, because the sink will never accept it."""


async def _rows(batch: Batch, row_of: Callable[[Exchange], T | None]) -> list[T]:
    """Return the rows of a batch. Builds them in chunks, so that a large batch does not block the event loop."""
    rows: list[T] = []
    for start in range(0, len(batch.exchanges), ROWS_PER_CHUNK):
        await asyncio.sleep(0)
        made = map(row_of, batch.exchanges[start : start + ROWS_PER_CHUNK])
        rows.extend(row for row in made if row is not None)
    return rows


@dataclass(frozen=True, slots=True)
class CheckpointDelivery:
    """Delivers batches to the session store."""

    store: SessionStore
    sink: Sink = Sink.CHECKPOINTS

    async def deliver(self, batch: Batch) -> None:
        """Store the checkpoints of a batch."""
        checkpoints = await _rows(batch, checkpoint_of)
        if checkpoints:
            await self.store.append(checkpoints)


@dataclass(frozen=True, slots=True)
class TraceDelivery:
    """Delivers batches to the trace sink."""

    traces: TraceSink
    sink: Sink = Sink.TRACES

    async def deliver(self, batch: Batch) -> None:
        """Store the traces of a batch."""
        rows = await _rows(batch, trace_of)
        if rows:
            await self.traces.write(rows, batch.token)


class DeliverExchanges:
    """Delivers to one sink. Retries without limit, with jittered and capped delays."""

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
        """Set the ports. ``jitter`` returns random numbers in [0, 1); ``sleep`` waits for seconds."""
        self._journal = journal
        self._delivery = delivery
        self._observer = observer
        self._clock = clock
        self._jitter = jitter
        self._sleep = sleep
        self._failures = 0

    async def run(self) -> None:
        """Deliver until cancelled. An interrupted batch is delivered again after a restart."""
        while True:
            if await self.deliver_next() is False:
                await self._sleep(self._delay_s())
            elif self._journal.depth(self._delivery.sink) < BATCH_ROWS:
                await self._journal.wait_for_more(self._delivery.sink, IDLE_S)
                # Wait for more exchanges to share the batch: neither sink could keep up with single rows.
                await self._sleep(LINGER_S)

    async def drain(self) -> None:
        """Deliver until the journal has nothing left for the sink. Retries without limit."""
        while (outcome := await self.deliver_next()) is not None:
            if not outcome:
                await self._sleep(self._delay_s())

    async def flush(self) -> None:
        """Deliver all batches that the journal has now. Stop at the first failure: the journal keeps the rest."""
        while await self.deliver_next():
            pass

    async def deliver_next(self) -> bool | None:
        """Deliver one batch. Return True if it was delivered, False if that failed, None if there was none."""
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
        except Exception as error:  # noqa: BLE001 - a bug in a sink must not end its delivery; it may quote a row
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
