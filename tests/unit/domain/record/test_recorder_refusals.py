"""The aggregated recording of refusals beyond an organization's limit (ADR 0041)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from harness.chat_scene import DISK_FULL, ScriptedJournal, status_of
from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from harness.memory.observers import RecordingObserver
from ibex.domain.errors import InsufficientPermissionsError, OverloadedError, RateLimitedError
from ibex.domain.record.exchange import Caller
from ibex.domain.record.in_flight import InFlightExchange
from ibex.domain.record.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from ibex.domain.errors import IbexError
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.journal import JournalUnavailableError


class FullDisk(ScriptedJournal):
    """A journal that cannot store anything."""

    def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        """Fail."""
        del exchange
        done(DISK_FULL)


class Desk:
    """A use case with its journal and its observer."""

    def __init__(self, journal: ScriptedJournal | None = None) -> None:
        self.journal = journal or ScriptedJournal()
        self.observer = RecordingObserver()
        self.recorder = Recorder(self.journal, [self.observer], SequentialIds(), status_of)

    @staticmethod
    def in_flight() -> InFlightExchange:
        """Return the exchange in flight of a new request."""
        in_flight = InFlightExchange.begin(ManualClock(), UUID(int=3), "t" * 32)
        in_flight.caller = Caller(UUID(int=1), UUID(int=2))
        return in_flight


def _excess(desk: Desk, code: type[IbexError] = RateLimitedError) -> tuple[InFlightExchange, IbexError]:
    in_flight = desk.in_flight()
    in_flight.is_excess_refusal = True
    return in_flight, code()


async def test_refusals_beyond_the_bound_are_recorded_as_one_exchange() -> None:
    """All refusals with the same code share one exchange and one sequence number, at the latest after ``drain``.

    Observers get each refusal.
    """
    desk = Desk()
    await desk.recorder.record(desk.in_flight(), error=RateLimitedError())
    for _ in range(1_000):
        in_flight, error = _excess(desk)
        await desk.recorder.record(in_flight, error=error)
    in_flight, error = _excess(desk, InsufficientPermissionsError)
    await desk.recorder.record(in_flight, error=error)
    assert len(desk.journal.kept) == 1

    await desk.recorder.drain()
    await desk.recorder.record(desk.in_flight(), error=RateLimitedError())

    assert [(e.emitter_seq, e.repeated) for e in desk.journal.kept] == [(1, 1), (2, 1_000), (3, 1), (4, 1)]
    assert [e.exchange.emitter_seq for e in desk.observer.exchanges] == [1, *[0] * 1_001, 4]
    assert all(e.journaled for e in desk.observer.exchanges)
    assert [(e.exchange.repeated, e.journaled) for e in desk.observer.aggregates] == [(1_000, True), (1, True)]


async def test_aggregated_refusals_are_recorded_a_second_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop's timer starts the recording, and no request waits for it."""
    desk = Desk()
    later: list[tuple[float, Callable[[], None]]] = []
    loop = asyncio.get_running_loop()
    never = loop.call_later(3_600, lambda: None)

    def call_later(delay_s: float, flush: Callable[[], None]) -> asyncio.TimerHandle:
        later.append((delay_s, flush))
        return never

    monkeypatch.setattr(loop, "call_later", call_later)
    for _ in range(2):
        in_flight, error = _excess(desk)
        await desk.recorder.record(in_flight, error=error)
    ((delay_s, flush),) = later
    assert (delay_s, desk.journal.kept) == (1.0, [])
    flush()
    await desk.recorder.drain()

    assert [e.repeated for e in desk.journal.kept] == [2]
    in_flight, error = _excess(desk)
    await desk.recorder.record(in_flight, error=error)
    assert len(later) == 2
    await desk.recorder.drain()


async def test_a_refusal_that_reached_the_provider_is_recorded_individually() -> None:
    """The journal has a note of it, which only its own exchange removes."""
    desk = Desk()
    in_flight, error = _excess(desk, OverloadedError)
    desk.recorder.begin(in_flight)

    await desk.recorder.record(in_flight, error=error)

    assert [(e.emitter_seq, e.repeated) for e in desk.journal.kept] == [(1, 1)]


async def test_refusals_that_the_journal_cannot_store_are_reported() -> None:
    """The report contains their number, so that losses can be counted."""
    desk = Desk(FullDisk())
    for _ in range(3):
        in_flight, error = _excess(desk)
        await desk.recorder.record(in_flight, error=error)

    await desk.recorder.drain()

    assert [(e.exchange.repeated, e.journaled) for e in desk.observer.aggregates] == [(3, False)]
