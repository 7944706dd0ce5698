"""USE CASE: record an exchange exactly once, whatever happens to the request's task or to the process.

An exchange is begun in the journal when it reaches the provider, and recorded when it ends. If the process dies in
between, the next process that opens the journal recovers the exchange.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from ibex.domain.errors import InternalError
from ibex.domain.record.aggregated_refusals import FLUSH_INTERVAL_S, AggregatedRefusals
from ibex.domain.record.exchange import Exchange
from ibex.domain.record.in_flight import InFlightExchange, Recording
from ibex.domain.record.journal import append_and_wait
from ibex.domain.record.summary import ResponseSummary
from ibex.domain.value_object import field_copier

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ibex.domain.errors import IbexError
    from ibex.domain.ids import IdSource
    from ibex.domain.record.journal import Journal


class ExchangeObserver(Protocol):
    """Port: receives every recorded exchange (access log, metrics). Quick; never raises, never blocks."""

    def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
        """Report an exchange. ``journaled`` is False if its organization is unknown or the journal failed.

        A refusal that will be aggregated has ``emitter_seq`` 0, and ``journaled`` is True.
        """

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Report an aggregate of ``exchange.repeated`` refusals, each of which ``recorded`` has reported before."""


_INTERRUPTED: Final = InternalError()
_NO_SUMMARY: Final = ResponseSummary()
_copied: Final = field_copier(InFlightExchange, Exchange, without=("directive",))


def report_bug(adapter: str, error: Exception) -> None:
    """Pass an exception that a port does not declare to the event loop's handler, so that the caller can go on."""
    context = {"message": f"{adapter} raised an exception that its port does not declare", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


class Recorder:
    """Records exchanges in the journal and reports them to the observers.

    An exchange without a known organization, after a failed authentication, is only reported. Refusals beyond their
    organization's limit are aggregated and recorded within a second, as one exchange for each organization and code.
    """

    def __init__(
        self,
        journal: Journal,
        observers: Sequence[ExchangeObserver],
        ids: IdSource,
        status_of: Callable[[IbexError | None], int],
        remember: Callable[[Exchange], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Set the ports and ``status_of``, the protocol's table of statuses. The domain only records the number.

        ``remember`` runs in the background for each exchange whose response later requests can name.
        """
        self._journal = journal
        self._observers = observers
        self._ids = ids
        self._status_of = status_of
        self._remember = remember
        self._emitter_id = ids.uuid7()
        self._last_seq = 0
        self._running: set[asyncio.Task[None]] = set()
        self._appending = 0
        self._awaiting_appends: list[asyncio.Future[None]] = []
        self._excess = AggregatedRefusals()
        self._next_flush: asyncio.TimerHandle | None = None

    def begin(self, in_flight: InFlightExchange) -> None:
        """Note in the journal that the provider is asked now."""
        if in_flight.caller is not None and in_flight.journal_id is None:
            in_flight.journal_id = self._ids.uuid7()
            try:
                self._journal.begin(self._exchange(in_flight, _INTERRUPTED, _NO_SUMMARY, 0))
            except Exception as error:  # noqa: BLE001 - its port declares none
                report_bug("the journal", error)

    async def recover(self, journal: Journal) -> None:
        """Record the exchanges that a dead process had begun in this journal, as incomplete.

        Raises ``JournalUnavailableError``; once the journal is opened again, it returns those that are left.
        """
        await record_unfinished(journal, self._ids)

    async def record(
        self,
        in_flight: InFlightExchange,
        *,
        error: IbexError | None = None,
        summary: ResponseSummary | None = None,
    ) -> None:
        """Return once the exchange is recorded. Only the first call records it; later calls wait for the first.

        A cancellation ends the wait, never the recording. Never raises an error of the journal or of an observer: the
        client's response does not depend on them (ADR 0005).
        """
        if in_flight.recording is None:
            in_flight.provider_ended()
            exchange = self._close(in_flight, error, summary or _NO_SUMMARY)
            in_flight.recording = Recording()
            if exchange.summary.response_id is not None and self._remember is not None:
                self.start(self._remember(exchange))
            self._record(exchange, in_flight.recording)
        await in_flight.recording.wait()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that completes even if its waiters are cancelled. ``drain`` waits for it as well."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def drain(self) -> None:
        """Return once every recording and every started task has ended. Records the aggregated refusals first."""
        self._flush_aggregates()
        while self._running or self._appending:
            if self._running:
                await asyncio.wait(self._running)
            else:
                await self._appends_end()
            self._flush_aggregates()

    async def _appends_end(self) -> None:
        """Return once no exchange is being appended, for a moment at least."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaiting_appends.append(ended)
        await ended

    def _record(self, exchange: Exchange, recording: Recording | None) -> None:
        """Begin to record. Uses a callback, because a task or a future would cost time in every request."""
        if exchange.caller is None:
            self._notify(exchange, recording, journaled=False)
            return
        if not exchange.emitter_seq:
            self._aggregate(exchange)
            self._notify(exchange, recording, journaled=True)
            return
        self._appending += 1
        try:
            # The journal reports from its own context. Observers find the current request in the caller's.
            run = copy_context().run
            self._journal.append(exchange, lambda error: run(self._appended, exchange, recording, error))
        except Exception as error:  # noqa: BLE001 - its port declares none
            report_bug("the journal", error)
            self._appended(exchange, recording, error)

    def _aggregate(self, exchange: Exchange) -> None:
        self._excess.add(exchange)
        if self._next_flush is None:
            self._next_flush = asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self._flush_aggregates)

    def _flush_aggregates(self) -> None:
        """Begin to record the aggregated refusals."""
        if self._next_flush is None:
            return
        self._next_flush.cancel()
        self._next_flush = None
        for aggregate in self._excess.take():
            self._record(replace(aggregate, emitter_seq=self._next_seq()), None)

    def _appended(self, exchange: Exchange, recording: Recording | None, error: Exception | None) -> None:
        try:
            self._notify(exchange, recording, journaled=error is None)  # observers count lost exchanges
        finally:
            self._appending -= 1
            if not self._appending and self._awaiting_appends:
                waiting, self._awaiting_appends = self._awaiting_appends, []
                for ended in waiting:
                    if not ended.done():
                        ended.set_result(None)

    def _notify(self, exchange: Exchange, recording: Recording | None, *, journaled: bool) -> None:
        """Notify the observers, then complete the recording, which an aggregate does not have."""
        try:
            for observer in self._observers:
                notify = observer.aggregated if recording is None else observer.recorded
                try:
                    notify(exchange, journaled=journaled)
                except Exception as error:  # noqa: BLE001 - its port declares none
                    report_bug("an observer", error)
        finally:
            if recording is not None:
                recording.end()

    def _close(self, in_flight: InFlightExchange, error: IbexError | None, summary: ResponseSummary) -> Exchange:
        recorded_individually = in_flight.caller is not None and not (
            in_flight.is_excess_refusal and in_flight.journal_id is None
        )
        return self._exchange(in_flight, error, summary, self._next_seq() if recorded_individually else 0)

    def _next_seq(self) -> int:
        self._last_seq += 1
        return self._last_seq

    def _exchange(
        self, in_flight: InFlightExchange, error: IbexError | None, summary: ResponseSummary, emitter_seq: int
    ) -> Exchange:
        return Exchange(
            **_copied(in_flight),
            id=in_flight.journal_id or self._ids.uuid7(),
            emitter_id=self._emitter_id,
            emitter_seq=emitter_seq,
            # a clock that was set back must not cause a negative duration
            completed_at=max(in_flight.requested_at, in_flight.clock.now()),
            timings=in_flight.timings(),
            status=self._status_of(error),
            error_code=error.code if error else None,
            reached_provider=in_flight.provider_asked_ns is not None,
            is_complete=error is None,
            summary=summary,
            directive=in_flight.directive_receipt(),
        )


async def record_unfinished(journal: Journal, ids: IdSource) -> None:
    """Record the exchanges that a dead process had begun in this journal, as incomplete; see ``Recorder.recover``.

    They get an emitter id and sequence numbers of their own, so that a failure leaves no gap in a process's sequence.
    """
    emitter_id = ids.uuid7()
    for number, begun in enumerate(journal.unfinished(), 1):
        await append_and_wait(journal, replace(begun, emitter_id=emitter_id, emitter_seq=number))
