"""The recording of finished exchanges."""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.chat_scene import DISK_FULL, ScriptedJournal, status_of
from harness.exchanges import an_exchange
from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from harness.memory.observers import RecordingObserver
from ibex.domain.errors import ErrorCode, RateLimitedError
from ibex.domain.provider_errors import ProviderUnavailableError
from ibex.domain.record.exchange import Caller
from ibex.domain.record.in_flight import InFlightExchange
from ibex.domain.record.journal import JournalUnavailableError
from ibex.domain.record.recorder import Recorder
from ibex.domain.record.summary import ResponseSummary

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.domain.errors import IbexError
    from ibex.domain.record.exchange import Exchange

CALLER = Caller(UUID(int=1), UUID(int=2))


class Desk:
    """A use case with its journal and its observer."""

    def __init__(self) -> None:
        self.journal = ScriptedJournal()
        self.observer = RecordingObserver()
        self.recorder = Recorder(self.journal, [self.observer], SequentialIds(), status_of)

    @staticmethod
    def in_flight(caller: Caller | None = CALLER) -> InFlightExchange:
        """Return the exchange in flight of a new request."""
        in_flight = InFlightExchange.begin(ManualClock(), UUID(int=3), "t" * 32)
        in_flight.caller = caller
        return in_flight


async def test_record_returns_after_the_exchange_is_in_the_journal() -> None:
    """The observers have been notified by then."""
    desk = Desk()

    await desk.recorder.record(desk.in_flight(), summary=ResponseSummary(finish_reason="stop"))

    (kept,) = desk.journal.kept
    assert (kept.is_complete, kept.status, kept.summary.finish_reason) == (True, 200, "stop")
    assert [(s.exchange, s.journaled) for s in desk.observer.exchanges] == [(kept, True)]


async def test_only_the_first_recording_has_an_effect() -> None:
    """Later calls wait for it and change nothing."""
    desk = Desk()
    in_flight = desk.in_flight()

    await asyncio.gather(
        desk.recorder.record(in_flight, error=RateLimitedError()),
        desk.recorder.record(in_flight),
        desk.recorder.record(in_flight, error=ProviderUnavailableError()),
    )
    await desk.recorder.record(in_flight)

    (kept,) = desk.journal.kept
    assert kept.error_code is ErrorCode.RATE_LIMITED
    assert len(desk.observer.exchanges) == 1


async def test_cancelling_a_waiting_task_does_not_cancel_the_recording() -> None:
    """The wait ends, the recording continues, and drain() waits for it."""
    desk = Desk()
    waiting = asyncio.create_task(desk.recorder.record(desk.in_flight()))
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not desk.journal.kept
    await desk.recorder.drain()

    assert len(desk.journal.kept) == 1
    assert desk.observer.exchanges[0].journaled


async def test_draining_without_pending_recordings_returns_at_once() -> None:
    """This also applies after a finished recording."""
    desk = Desk()

    await desk.recorder.drain()
    await desk.recorder.record(desk.in_flight())
    await desk.recorder.drain()


async def test_an_unavailable_journal_is_only_reported_to_observers() -> None:
    """Recording succeeds. The sequence number is missing in the journal, which shows the loss."""
    desk = Desk()
    desk.journal.failure = DISK_FULL
    await desk.recorder.record(desk.in_flight())
    desk.journal.failure = None
    await desk.recorder.record(desk.in_flight())

    assert [(s.journaled, s.exchange.emitter_seq) for s in desk.observer.exchanges] == [(False, 1), (True, 2)]
    assert [exchange.emitter_seq for exchange in desk.journal.kept] == [2]


async def test_an_unknown_caller_is_not_journaled() -> None:
    """Without an organization there is no row. Observers are notified, and no sequence number is used."""
    desk = Desk()

    await desk.recorder.record(desk.in_flight())
    await desk.recorder.record(desk.in_flight(None), error=RateLimitedError())
    await desk.recorder.record(desk.in_flight())

    assert [exchange.emitter_seq for exchange in desk.journal.kept] == [1, 2]
    assert [s.exchange.emitter_seq for s in desk.observer.exchanges] == [1, 0, 2]
    assert [s.journaled for s in desk.observer.exchanges] == [True, False, True]


async def test_sequence_numbers_have_no_gaps_under_concurrency() -> None:
    """A hundred concurrent requests, some without an organization, some cancelled, leave 1 to n in the journal."""
    desk = Desk()
    settling = [
        asyncio.create_task(desk.recorder.record(desk.in_flight(None if i % 5 == 0 else CALLER))) for i in range(100)
    ]
    await asyncio.sleep(0)
    for task in settling[::3]:
        task.cancel()
    await asyncio.wait(settling)
    await desk.recorder.drain()

    assert [exchange.emitter_seq for exchange in desk.journal.kept] == list(range(1, 81))
    assert len({exchange.id for exchange in desk.journal.kept}) == 80
    assert len({exchange.emitter_id for exchange in desk.journal.kept}) == 1


async def test_each_process_has_its_own_emitter_id() -> None:
    """Each emitter has its own sequence."""
    ids = SequentialIds()
    journal = ScriptedJournal()
    for _ in range(2):
        await Recorder(journal, [], ids, status_of).record(Desk.in_flight())

    first, second = journal.kept
    assert first.emitter_id != second.emitter_id
    assert first.emitter_seq == second.emitter_seq == 1


async def test_observers_are_notified_in_order() -> None:
    """The log and the metrics get the same exchange."""
    desk = Desk()
    other = RecordingObserver()
    recorder = Recorder(desk.journal, [desk.observer, other], SequentialIds(), status_of)

    await recorder.record(desk.in_flight())

    assert desk.observer.exchanges == other.exchanges


async def test_an_exchange_is_noted_when_it_reaches_the_provider() -> None:
    """The note is incomplete and has the id of the later exchange. A second call changes nothing."""
    desk = Desk()
    in_flight = desk.in_flight()
    in_flight.provider_asked("openai")
    desk.recorder.begin(in_flight)
    desk.recorder.begin(in_flight)
    await desk.recorder.record(in_flight)

    (begun,) = desk.journal.begun
    (kept,) = desk.journal.kept
    assert (begun.id, begun.is_complete, begun.reached_provider, begun.emitter_seq) == (kept.id, False, True, 0)
    assert (kept.is_complete, kept.emitter_seq) == (True, 1)


async def test_recovered_exchanges_have_their_own_sequence() -> None:
    """Recovered exchanges have an emitter id and a sequence of their own, so no sequence has a gap."""
    desk = Desk()
    journal = ScriptedJournal()
    journal.left = [an_exchange(is_complete=False), an_exchange(is_complete=False)]
    await desk.recorder.recover(journal)
    await desk.recorder.record(desk.in_flight())

    (own,) = desk.journal.kept
    assert [e.emitter_seq for e in (*journal.kept, own)] == [1, 2, 1]
    (emitter_id,) = {e.emitter_id for e in journal.kept}
    assert emitter_id != own.emitter_id
    assert not any(e.is_complete for e in journal.kept)


async def test_an_error_after_the_headers_keeps_their_attempts_and_request_id() -> None:
    """The values of the error are ignored."""
    desk = Desk()
    in_flight = desk.in_flight()
    in_flight.provider_answered(2, "of the headers")

    await desk.recorder.record(
        in_flight, error=ProviderUnavailableError(attempts=4, provider_request_id="of the error")
    )

    (kept,) = desk.journal.kept
    assert (kept.attempts, kept.provider_request_id) == (2, "of the headers")


@pytest.mark.parametrize("waiter_leaves", [False, True])
async def test_an_unexpected_exception_of_the_journal_is_reported_and_fails_no_request(*, waiter_leaves: bool) -> None:
    """An undeclared exception is passed to the loop, once.

    Observers are notified that the exchange was not journaled.
    """
    desk, bug = Desk(), RuntimeError("a bug")
    reports: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    recorder = Recorder(Appending(bug), [desk.observer], SequentialIds(), status_of)
    settling = asyncio.create_task(recorder.record(desk.in_flight()))
    if waiter_leaves:
        await asyncio.sleep(0)
        settling.cancel()
    await asyncio.wait([settling])
    await recorder.drain()

    assert settling.cancelled() or settling.result() is None
    assert [report["exception"] for report in reports] == [bug]
    assert [s.journaled for s in desk.observer.exchanges] == [False]


class Appending(ScriptedJournal):
    """A journal whose ``append`` raises, or reports an outcome before it returns."""

    def __init__(self, outcome: Exception | None) -> None:
        super().__init__()
        self._outcome = outcome

    def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        """Report or raise as configured."""
        del exchange
        if self._outcome is not None and not isinstance(self._outcome, JournalUnavailableError):
            raise self._outcome
        done(self._outcome)


@pytest.mark.parametrize(
    ("outcome", "journaled", "bugs"), [(RuntimeError("a bug"), False, 1), (None, True, 0), (DISK_FULL, False, 0)]
)
async def test_every_outcome_reaches_observers_and_waiting_tasks(
    outcome: Exception | None, *, journaled: bool, bugs: int
) -> None:
    """Observers are notified once, all waiting tasks end, and nothing is left to drain."""
    desk, observer = Desk(), RecordingObserver()
    recorder = Recorder(Appending(outcome), [observer], SequentialIds(), status_of)
    reports: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    in_flight = desk.in_flight()

    async with asyncio.timeout(10):
        await asyncio.gather(recorder.record(in_flight), recorder.record(in_flight))
        await recorder.drain()

    assert [s.journaled for s in observer.exchanges] == [journaled]
    assert len(reports) == bugs


async def test_a_failed_recording_can_be_repeated() -> None:
    """The next call does not wait for a recording that never began."""
    desk = Desk()
    failing = iter([RuntimeError("a bug")])

    def status(error: IbexError | None) -> int:
        for bug in failing:
            raise bug
        return status_of(error)

    recorder = Recorder(desk.journal, [desk.observer], SequentialIds(), status)
    in_flight = desk.in_flight()

    with pytest.raises(RuntimeError):
        await recorder.record(in_flight)
    async with asyncio.timeout(10):
        await recorder.record(in_flight)

    assert len(desk.journal.kept) == 1


async def test_waiting_tasks_end_whatever_an_observer_raises() -> None:
    """Waiting tasks end even if the exception is not an ``Exception``."""

    class Ending:
        def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
            del exchange, journaled
            raise asyncio.CancelledError

        def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
            """Ignore aggregates."""

    recorder = Recorder(Desk().journal, [Ending()], SequentialIds(), status_of)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    async with asyncio.timeout(10):
        await recorder.record(Desk.in_flight())


async def test_an_exception_of_an_observer_does_not_affect_other_observers() -> None:
    """They are notified, and the request continues."""

    class Deaf:
        def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
            raise RuntimeError(f"a bug {exchange.emitter_seq} {journaled}")

        def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
            """Ignore aggregates."""

    desk = Desk()
    recorder = Recorder(desk.journal, [Deaf(), desk.observer], SequentialIds(), status_of)
    reports: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    await recorder.record(desk.in_flight())

    assert desk.observer.exchanges[0].journaled
    message = "an observer raised an exception that its port does not declare"
    assert [report["message"] for report in reports] == [message]


async def test_observers_run_in_the_context_of_the_recorded_request() -> None:
    """They find the current request there, although the journal reports from a context of its own."""
    current: ContextVar[str] = ContextVar("current", default="none")
    seen: list[str] = []

    class Observer(RecordingObserver):
        def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
            super().recorded(exchange, journaled=journaled)
            seen.append(current.get())

    class Journal(ScriptedJournal):
        def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
            self.kept.append(exchange)
            asyncio.get_running_loop().call_soon(done, None, context=Context())

    recorder = Recorder(Journal(), [Observer()], SequentialIds(), status_of)
    current.set("request")
    await recorder.record(Desk.in_flight())

    assert seen == ["request"]
