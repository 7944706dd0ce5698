"""Delivery of exchanges from the journal to a sink."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.exchanges import a_refusal, an_exchange
from harness.memory.clock import ManualClock
from harness.memory.journal import InMemoryJournal
from harness.memory.observers import DeadLettered, Delivered, DeliveryFailed, RecordingObserver
from ibex.domain.record.delivery import (
    BATCH_ROWS,
    LINGER_S,
    ROWS_PER_CHUNK,
    CheckpointDelivery,
    DeliverExchanges,
    TraceDelivery,
)
from ibex.domain.record.journal import Batch, JournalUnavailableError, Sink, append_and_wait
from ibex.domain.record.sessions import SinkRefusedError, SinkUnavailableError, checkpoint_of
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.sessions import Checkpoint
    from ibex.domain.record.traces import Trace


@dataclass(slots=True)
class ScriptedSink:
    """A ``SessionStore`` and a ``TraceSink`` that fail the given number of times."""

    failures: list[BaseException] = field(default_factory=list)
    checkpoints: list[list[Checkpoint]] = field(default_factory=list)
    traces: list[tuple[list[Trace], str]] = field(default_factory=list)
    on_asked: Callable[[], object] = lambda: None
    calls: int = 0
    taken: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    async def append(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Store checkpoints, or fail."""
        self._fail()
        self.checkpoints.append(list(checkpoints))
        self.taken.put_nowait(len(checkpoints))

    async def write(self, traces: Sequence[Trace], batch_token: str) -> None:
        """Take traces, or fail."""
        self._fail()
        self.traces.append((list(traces), batch_token))

    def _fail(self) -> None:
        self.calls += 1
        self.on_asked()
        if self.failures:
            raise self.failures.pop(0)


class Belt:
    """A delivery with its journal, sink and observer. It notes its sleeps, which end when ``wake`` is set."""

    def __init__(self, *failures: BaseException, jitter: float = 0.0) -> None:
        self.clock = ManualClock()
        self.journal = InMemoryJournal()
        self.sink = ScriptedSink(list(failures))
        self.observer = RecordingObserver()
        self.slept: list[float] = []
        self.asleep = asyncio.Event()
        self.wake = asyncio.Event()
        self.wake.set()
        self.sleeps_until_cancelled = 1_000
        self._jitter = jitter

    def delivery(self, sink: Sink = Sink.CHECKPOINTS) -> DeliverExchanges:
        """Return the use case for one of the sinks."""
        return DeliverExchanges(
            self.journal,
            CheckpointDelivery(self.sink) if sink is Sink.CHECKPOINTS else TraceDelivery(self.sink),
            self.observer,
            self.clock,
            jitter=lambda: self._jitter,
            sleep=self._sleep,
        )

    async def fill(self, count: int, first: int = 1) -> list[Exchange]:
        """Append this number of exchanges to the journal."""
        exchanges = [an_exchange(id=UUID(int=1_000 + i), emitter_seq=i) for i in range(first, first + count)]
        for exchange in exchanges:
            await append_and_wait(self.journal, exchange)
        return exchanges

    async def run(self, sleeps: int) -> None:
        """Run the delivery of checkpoints, cancelled at the given sleep."""
        self.sleeps_until_cancelled = sleeps
        task = asyncio.create_task(self.delivery().run())
        await asyncio.wait([task])
        assert task.cancelled()

    async def _sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        if len(self.slept) == self.sleeps_until_cancelled:
            raise asyncio.CancelledError
        self.asleep.set()
        await asyncio.sleep(0)
        await self.wake.wait()


async def test_checkpoints_are_stored_in_order() -> None:
    """A batch is stored, then acknowledged. After that, there is no further batch."""
    belt = Belt()
    exchanges = await belt.fill(3)
    delivery = belt.delivery()

    assert await delivery.deliver_next() is True
    assert belt.sink.checkpoints == [[checkpoint_of(exchange) for exchange in exchanges]]
    assert belt.journal.depth(Sink.CHECKPOINTS) == 0
    assert await delivery.deliver_next() is None


async def test_traces_are_sent_with_the_token_of_their_batch() -> None:
    """The token lets the sink store a repeated batch once."""
    belt = Belt()
    exchanges = await belt.fill(2)
    batch = await belt.journal.next_batch(Sink.TRACES, BATCH_ROWS)
    assert batch is not None

    assert await belt.delivery(Sink.TRACES).deliver_next() is True
    assert belt.sink.traces == [([trace_of(exchange) for exchange in exchanges], batch.token)]


async def test_each_sink_has_its_own_position() -> None:
    """An exchange that one sink has stored is still delivered to the other."""
    belt = Belt()
    await belt.fill(2)

    await belt.delivery(Sink.CHECKPOINTS).deliver_next()

    assert (belt.journal.depth(Sink.CHECKPOINTS), belt.journal.depth(Sink.TRACES)) == (0, 2)
    await belt.delivery(Sink.TRACES).deliver_next()
    assert belt.journal.depth(Sink.TRACES) == 0


@pytest.mark.parametrize(("sink", "caller_known"), [(Sink.CHECKPOINTS, True), (Sink.TRACES, False)])
async def test_a_batch_without_rows_is_acknowledged_without_a_call(sink: Sink, *, caller_known: bool) -> None:
    """Refusals have no checkpoint, and exchanges without an organization have no trace."""
    belt = Belt()
    await append_and_wait(belt.journal, a_refusal() if caller_known else a_refusal(caller=None))

    assert await belt.delivery(sink).deliver_next() is True
    assert belt.sink.calls == 0
    assert belt.journal.depth(sink) == 0


@pytest.mark.parametrize("sink", list(Sink))
async def test_other_tasks_run_while_the_rows_of_a_large_batch_are_built(sink: Sink) -> None:
    """Building a thousand rows takes some milliseconds."""
    belt = Belt()
    await belt.fill(BATCH_ROWS)
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(somebody_else())
    await belt.delivery(sink).deliver_next()
    other.cancel()
    assert turns >= BATCH_ROWS // ROWS_PER_CHUNK - 1
    assert belt.journal.depth(sink) == 0


async def test_refusals_in_a_batch_are_not_sent_as_checkpoints() -> None:
    """Only exchanges with a row are sent; all are acknowledged."""
    belt = Belt()
    (first,) = await belt.fill(1)
    await append_and_wait(belt.journal, a_refusal())
    (second,) = await belt.fill(1, first=2)

    await belt.delivery().deliver_next()

    assert belt.sink.checkpoints == [[checkpoint_of(first), checkpoint_of(second)]]
    assert belt.journal.depth(Sink.CHECKPOINTS) == 0


async def test_a_failed_batch_is_retried_unchanged() -> None:
    """It has the same members and the same token, even after more exchanges were appended. Both sinks rely on it."""
    belt = Belt(SinkUnavailableError("down"))
    exchanges = await belt.fill(2)
    delivery = belt.delivery(Sink.TRACES)
    before = await belt.journal.next_batch(Sink.TRACES, BATCH_ROWS)
    assert before is not None

    assert await delivery.deliver_next() is False
    assert belt.journal.depth(Sink.TRACES) == 2
    await belt.fill(1, first=3)
    assert await delivery.deliver_next() is True

    assert belt.sink.traces == [([trace_of(exchange) for exchange in exchanges], before.token)]
    assert belt.journal.depth(Sink.TRACES) == 1


async def test_observers_get_the_outcome_of_deliveries() -> None:
    """They get the number of rows, the duration, and the reason of a failure."""
    belt = Belt(SinkUnavailableError("the store is down"))
    belt.sink.on_asked = lambda: belt.clock.advance(timedelta(milliseconds=3))
    await belt.fill(2)
    delivery = belt.delivery()

    await delivery.deliver_next()
    await delivery.deliver_next()

    assert belt.observer.deliveries == [
        DeliveryFailed(Sink.CHECKPOINTS, 2, "the store is down"),
        Delivered(Sink.CHECKPOINTS, 2, 3_000_000),
    ]


class PickySink(ScriptedSink):
    """A sink that refuses a batch with one of these numbers."""

    poisoned: frozenset[int] = frozenset()
    asked: list[tuple[str, list[int]]]

    async def write(self, traces: Sequence[Trace], batch_token: str) -> None:
        """Take them all or none."""
        numbers = [trace.emitter_seq for trace in traces]
        self.asked.append((batch_token, numbers))
        if self.poisoned & set(numbers):
            raise SinkRefusedError("a type that it has not")
        await super().write(traces, batch_token)


@pytest.mark.parametrize("poisoned", [{1}, {8}, {3, 4}, {1, 5, 8}, set(range(1, 9))])
async def test_only_a_refused_row_becomes_a_dead_letter(poisoned: set[int]) -> None:
    """All other rows are stored once, and the next batch is delivered."""
    belt = Belt()
    sink = PickySink()
    sink.poisoned, sink.asked = frozenset(poisoned), []
    belt.sink = sink
    exchanges = await belt.fill(8)

    assert await belt.delivery(Sink.TRACES).deliver_next() is True

    stored = sorted(trace.emitter_seq for traces, _ in sink.traces for trace in traces)
    assert stored == [n for n in range(1, 9) if n not in poisoned]
    dead_lettered = [exchange for _, exchange, _ in belt.journal.dead_lettered]
    assert dead_lettered == [exchanges[n - 1] for n in sorted(poisoned)]
    assert belt.observer.deliveries[:-1] == [DeadLettered(Sink.TRACES, "a type that it has not")] * len(poisoned)
    assert belt.journal.depth(Sink.TRACES) == 0


async def test_the_halves_of_a_batch_keep_their_tokens() -> None:
    """The sink recognizes a batch that is halved, interrupted and halved again."""
    belt = Belt()
    sink = PickySink([SinkUnavailableError("gone")])
    sink.poisoned, sink.asked = frozenset({1}), []
    belt.sink = sink
    await belt.fill(4)
    delivery = belt.delivery(Sink.TRACES)

    assert await delivery.deliver_next() is False
    before = list(sink.asked)
    assert await delivery.deliver_next() is True

    assert sink.asked[len(before) :][: len(before)] == before
    assert len({token for token, _ in sink.asked}) == len({tuple(numbers) for _, numbers in sink.asked})


async def test_draining_delivers_until_the_journal_is_empty() -> None:
    """Failures are retried."""
    belt = Belt(SinkUnavailableError("gone"), SinkUnavailableError("gone"))
    await belt.fill(3)
    await belt.delivery().drain()
    assert belt.journal.depth(Sink.CHECKPOINTS) == 0
    assert len(belt.slept) == 2


async def test_an_unexpected_exception_of_a_sink_is_a_delivery_failure() -> None:
    """The batch is kept and retried. The exception's message, which may quote a row, is not reported."""
    belt = Belt(RuntimeError("secret row"))
    await belt.fill(1)
    delivery = belt.delivery()

    assert await delivery.deliver_next() is False
    assert belt.observer.deliveries == [DeliveryFailed(Sink.CHECKPOINTS, 1, "RuntimeError")]
    assert await delivery.deliver_next() is True


@pytest.mark.parametrize("when", ["next_batch", "acknowledge"])
async def test_delivery_retries_an_unavailable_journal(when: str) -> None:
    """A batch that was stored but not acknowledged is delivered again, and the sink recognizes it."""

    class FailingOnce(InMemoryJournal):
        failed = False

        async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
            self._fail("next_batch")
            return await super().next_batch(sink, limit)

        async def acknowledge(self, sink: Sink, batch: Batch) -> None:
            self._fail("acknowledge")
            await super().acknowledge(sink, batch)

        def _fail(self, method: str) -> None:
            if method == when and not self.failed:
                self.failed = True
                raise JournalUnavailableError("the disk is gone")

    belt = Belt()
    belt.journal = FailingOnce()
    await belt.fill(1)
    delivery = belt.delivery()

    assert await delivery.deliver_next() is False
    assert await delivery.deliver_next() is True
    assert belt.journal.depth(Sink.CHECKPOINTS) == 0
    first, *_ = belt.observer.deliveries
    assert first == DeliveryFailed(Sink.CHECKPOINTS, int(when == "acknowledge"), "the disk is gone")
    assert len({tuple(rows) for rows in belt.sink.checkpoints}) == 1


async def test_a_cancelled_delivery_is_not_acknowledged() -> None:
    """A batch that a shutdown interrupts is delivered again."""
    belt = Belt(asyncio.CancelledError())
    await belt.fill(1)
    delivery = belt.delivery()

    with pytest.raises(asyncio.CancelledError):
        await delivery.deliver_next()
    assert belt.journal.depth(Sink.CHECKPOINTS) == 1
    assert belt.observer.deliveries == []


async def test_flushing_delivers_batches_until_the_journal_is_empty() -> None:
    """It delivers full batches, then the rest."""
    belt = Belt()
    await belt.fill(2 * BATCH_ROWS + 1)

    await belt.delivery().flush()

    assert [len(rows) for rows in belt.sink.checkpoints] == [BATCH_ROWS, BATCH_ROWS, 1]
    assert belt.journal.depth(Sink.CHECKPOINTS) == 0


async def test_flushing_ends_at_a_failure() -> None:
    """A sink that is down does not delay a shutdown, and the journal keeps the rest."""
    belt = Belt(SinkUnavailableError("down"))
    await belt.fill(1)

    await belt.delivery().flush()

    assert belt.slept == []
    assert belt.journal.depth(Sink.CHECKPOINTS) == 1


async def test_exchanges_within_the_linger_time_share_a_batch() -> None:
    """After the first row, delivery waits for 200 ms and then sends all rows together."""
    belt = Belt()
    belt.wake.clear()
    running = asyncio.create_task(belt.delivery().run())
    await asyncio.sleep(0)
    await belt.fill(1)
    await belt.asleep.wait()
    await belt.fill(2, first=2)
    belt.wake.set()

    assert await belt.sink.taken.get() == 3
    assert belt.slept[0] == LINGER_S
    running.cancel()
    await asyncio.wait([running])


async def test_full_batches_follow_each_other_without_a_pause() -> None:
    """A backlog is delivered as fast as the sink accepts it."""
    belt = Belt()
    await belt.fill(3 * BATCH_ROWS + 5)

    await belt.run(sleeps=1)

    assert [len(rows) for rows in belt.sink.checkpoints] == [BATCH_ROWS] * 3
    assert belt.slept == [LINGER_S]


@pytest.mark.parametrize(
    ("jitter", "expected"), [(0.0, [0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5]), (1.0, [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])]
)
async def test_retries_have_exponential_capped_delays_with_jitter_and_never_stop(
    jitter: float, expected: list[float]
) -> None:
    """The delay doubles up to 5 seconds, and jitter reduces it by up to half."""
    belt = Belt(*(SinkUnavailableError("down") for _ in range(100)), jitter=jitter)
    await belt.fill(1)

    await belt.run(sleeps=80)

    assert belt.slept[:7] == pytest.approx(expected)
    assert set(belt.slept[7:]) == {expected[-1]}
    assert belt.journal.depth(Sink.CHECKPOINTS) == 1


async def test_a_success_resets_the_retry_delay() -> None:
    """Delays start anew once the sink is available again."""
    belt = Belt(*(SinkUnavailableError("down") for _ in range(3)))
    await belt.fill(2 * BATCH_ROWS)
    calls_before_failing_again = 4

    def fail_again() -> None:
        if belt.sink.calls == calls_before_failing_again + 1:
            belt.sink.failures.append(SinkUnavailableError("down again"))

    belt.sink.on_asked = fail_again
    await belt.run(sleeps=4)

    assert belt.slept == pytest.approx([0.1, 0.2, 0.4, 0.1])


async def test_delivery_runs_until_it_is_cancelled() -> None:
    """It waits while the journal is empty, and delivers later exchanges."""
    belt = Belt()
    running = asyncio.create_task(belt.delivery().run())
    for first in (1, 2, 3):
        await belt.fill(1, first=first)
        assert await belt.sink.taken.get() == 1

    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


def test_each_delivery_has_its_sink() -> None:
    """The sink determines which position of the journal advances."""
    sink = ScriptedSink()

    assert CheckpointDelivery(sink).sink is Sink.CHECKPOINTS
    assert TraceDelivery(sink).sink is Sink.TRACES
