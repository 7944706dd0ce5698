"""USE CASE: put an exchange on record, exactly once, whatever happens to the request's own task or to the process.

Begun, when it reaches the provider, and settled, when it is over. What a process that died had begun and not settled is
settled by the next one that opens its journal.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from ibex.domain.aggregated_refusals import FLUSH_INTERVAL_S, AggregatedRefusals
from ibex.domain.completion import CompletionSummary
from ibex.domain.errors import InternalError
from ibex.domain.exchange import Exchange
from ibex.domain.journal import JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ibex.domain.errors import IbexError
    from ibex.domain.ids import IdSource
    from ibex.domain.journal import Journal
    from ibex.domain.open_exchange import OpenExchange


class ExchangeObserver(Protocol):
    """Port: hears of every settled exchange (access log, metrics). Quick; never raises, never blocks."""

    def settled(self, exchange: Exchange, *, journaled: bool) -> None:
        """Take note. ``journaled`` is False where there is nothing to keep, or the journal could not keep it.

        An aggregated refusal has ``emitter_seq`` 0, and ``journaled`` is True.
        """

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Take note of an aggregate of ``exchange.repeated`` refusals, each of which was reported to ``settled``."""


_CUT_OFF: Final = InternalError()
_NOTHING_KNOWN: Final = CompletionSummary()


def report_bug(whose: str, error: Exception) -> None:
    """Hand an exception that a port does not announce to the event loop's handler, so that the caller can go on."""
    context = {"message": f"{whose} raised what its port does not announce", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


class Settlement:
    """The recording of one exchange, for those who wait for its end; being cancelled ends their waiting alone."""

    __slots__ = ("_is_over", "_waiting")

    def __init__(self) -> None:
        self._is_over = False
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return when it is over."""
        if not self._is_over:
            over = asyncio.get_running_loop().create_future()
            self._waiting.append(over)
            await over

    def end(self) -> None:
        """It is over."""
        self._is_over = True
        for over in self._waiting:
            if not over.done():
                over.set_result(None)


class SettleExchange:
    """Closes notebooks. A failed authentication has no known organization: it is observed, but not recorded.

    Refusals beyond their organization's limit are aggregated and recorded within a second, as one exchange for each
    organization and code.
    """

    def __init__(
        self,
        journal: Journal,
        observers: Sequence[ExchangeObserver],
        ids: IdSource,
        status_of: Callable[[IbexError | None], int],
    ) -> None:
        """Take the protocol's own table of what an error's status is; the domain only records the number."""
        self._journal = journal
        self._observers = observers
        self._ids = ids
        self._status_of = status_of
        self._emitter_id = ids.uuid7()
        self._last_seq = 0
        self._running: set[asyncio.Future[None]] = set()
        self._excess = AggregatedRefusals()
        self._next_flush: asyncio.TimerHandle | None = None

    def begin(self, notes: OpenExchange) -> None:
        """Note that the provider is asked now."""
        if notes.caller is not None and notes.begun_id is None:
            notes.begun_id = self._ids.uuid7()
            try:
                self._journal.begin(self._exchange(notes, _CUT_OFF, _NOTHING_KNOWN, 0))
            except Exception as error:  # noqa: BLE001 - its port announces none
                report_bug("the journal", error)

    async def recover(self, journal: Journal) -> None:
        """Settle, as incomplete, what a process that is gone had begun in this journal, under numbers of their own.

        This process's would have a gap where the journal takes one later. Raises ``JournalUnavailableError``; what is
        settled by then is, and the rest is found again.
        """
        emitter_id = self._ids.uuid7()
        for number, begun in enumerate(journal.left_open(), 1):
            await journal.append(replace(begun, emitter_id=emitter_id, emitter_seq=number))

    async def settle(
        self,
        notes: OpenExchange,
        *,
        error: IbexError | None = None,
        summary: CompletionSummary | None = None,
    ) -> None:
        """Return once the exchange is on record. The first call decides, later ones wait for it.

        Being cancelled ends the waiting, never the recording. Nothing that the journal or an observer does is raised
        here: the client's answer does not depend on it (ADR 0005).
        """
        if notes.settlement is None:
            notes.provider_ended()
            exchange = self._close(notes, error, summary or _NOTHING_KNOWN)
            notes.settlement = Settlement()
            self._record(exchange, notes.settlement)
        await notes.settlement.wait()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin work that must come to its end whoever stops waiting for it; ``drain`` waits for it too."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def drain(self) -> None:
        """Return once everything that is being recorded or closed is, aggregated refusals included."""
        self._flush_aggregates()
        while self._running:
            await asyncio.wait(self._running)
            self._flush_aggregates()

    def _record(self, exchange: Exchange, settlement: Settlement | None) -> None:
        """Begin to record; without a task of its own, which every request would pay for."""
        if exchange.caller is None:
            self._tell(exchange, settlement, journaled=False)
            return
        if not exchange.emitter_seq:
            self._aggregate(exchange)
            self._tell(exchange, settlement, journaled=True)
            return
        try:
            appending = self._journal.append(exchange)
        except Exception as error:  # noqa: BLE001 - its port announces none
            report_bug("the journal", error)
            self._tell(exchange, settlement, journaled=False)
            return
        self._running.add(appending)
        appending.add_done_callback(partial(self._appended, exchange, settlement))

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

    def _appended(self, exchange: Exchange, settlement: Settlement | None, appending: asyncio.Future[None]) -> None:
        self._running.discard(appending)
        error = None if appending.cancelled() else appending.exception()
        if isinstance(error, Exception) and not isinstance(error, JournalUnavailableError):
            report_bug("the journal", error)  # its port announces no other
        journaled = error is None and not appending.cancelled()  # observers count what is not kept
        self._tell(exchange, settlement, journaled=journaled)

    def _tell(self, exchange: Exchange, settlement: Settlement | None, *, journaled: bool) -> None:
        """Tell the observers, then complete the settlement. An aggregate has none."""
        try:
            for observer in self._observers:
                tell = observer.aggregated if settlement is None else observer.settled
                try:
                    tell(exchange, journaled=journaled)
                except Exception as error:  # noqa: BLE001 - its port announces none
                    report_bug("an observer", error)
        finally:
            if settlement is not None:
                settlement.end()

    def _close(self, notes: OpenExchange, error: IbexError | None, summary: CompletionSummary) -> Exchange:
        recorded_by_itself = notes.caller is not None and not (notes.is_excess_refusal and notes.begun_id is None)
        return self._exchange(notes, error, summary, self._next_seq() if recorded_by_itself else 0)

    def _next_seq(self) -> int:
        self._last_seq += 1
        return self._last_seq

    def _exchange(
        self, notes: OpenExchange, error: IbexError | None, summary: CompletionSummary, emitter_seq: int
    ) -> Exchange:
        return Exchange(
            id=notes.begun_id or self._ids.uuid7(),
            request_id=notes.request_id,
            trace_id=notes.trace_id,
            emitter_id=self._emitter_id,
            emitter_seq=emitter_seq,
            requested_at=notes.requested_at,
            completed_at=max(notes.requested_at, notes.clock.now()),  # a clock that is set back makes no negative span
            timings=notes.timings(),
            status=self._status_of(error),
            error_code=error.code if error else None,
            caller=notes.caller,
            session=notes.session,
            model=notes.model,
            provider=notes.provider,
            provider_request_id=notes.provider_request_id,
            attempts=notes.attempts,
            reached_provider=notes.provider_asked_ns is not None,
            is_streaming=notes.is_streaming,
            is_complete=error is None,
            messages_hash=notes.messages_hash,
            summary=summary,
            directive=notes.directive_receipt(),
            auth_cached=notes.auth_cached,
        )
