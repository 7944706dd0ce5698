"""Putting refusals beyond an organization's bound on record: together (ADR 0041)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

from harness.chat_scene import DISK_FULL, ScriptedJournal, status_of
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.ids import SequentialIds
from ibex.adapters.memory.observers import RecordingObserver
from ibex.domain.errors import InsufficientPermissionsError, OverloadedError, RateLimitedError
from ibex.domain.exchange import Caller
from ibex.domain.open_exchange import OpenExchange
from ibex.domain.settle_exchange import SettleExchange

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from ibex.domain.errors import IbexError
    from ibex.domain.exchange import Exchange


class FullDisk(ScriptedJournal):
    """A journal that keeps nothing."""

    def append(self, exchange: Exchange) -> asyncio.Future[None]:
        """Fail."""
        del exchange
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(DISK_FULL)
        return future


class Desk:
    """A use case with its journal and its observer."""

    def __init__(self, journal: ScriptedJournal | None = None) -> None:
        self.journal = journal or ScriptedJournal()
        self.observer = RecordingObserver()
        self.settle = SettleExchange(self.journal, [self.observer], SequentialIds(), status_of)

    @staticmethod
    def notes() -> OpenExchange:
        """Return the notes of a new request."""
        notes = OpenExchange.begin(ManualClock(), UUID(int=3), "t" * 32)
        notes.caller = Caller(UUID(int=1), UUID(int=2))
        return notes


def _excess(desk: Desk, code: type[IbexError] = RateLimitedError) -> tuple[OpenExchange, IbexError]:
    notes = desk.notes()
    notes.is_excess_refusal = True
    return notes, code()


async def test_refusals_beyond_the_bound_are_recorded_together() -> None:
    """One exchange and one number for all of a code, at the latest when everything is drained; each is observed."""
    desk = Desk()
    await desk.settle.settle(desk.notes(), error=RateLimitedError())
    for _ in range(1_000):
        notes, error = _excess(desk)
        await desk.settle.settle(notes, error=error)
    notes, error = _excess(desk, InsufficientPermissionsError)
    await desk.settle.settle(notes, error=error)
    assert len(desk.journal.kept) == 1

    await desk.settle.drain()
    await desk.settle.settle(desk.notes(), error=RateLimitedError())

    assert [(e.emitter_seq, e.repeated) for e in desk.journal.kept] == [(1, 1), (2, 1_000), (3, 1), (4, 1)]
    assert [e.exchange.emitter_seq for e in desk.observer.exchanges] == [1, *[0] * 1_001, 4]
    assert all(e.journaled for e in desk.observer.exchanges)
    assert [(e.exchange.repeated, e.journaled) for e in desk.observer.aggregates] == [(1_000, True), (1, True)]


async def test_refusals_are_recorded_a_second_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the event loop's clock; nobody waits for it."""
    desk = Desk()
    later: list[tuple[float, Callable[[], None]]] = []
    loop = asyncio.get_running_loop()
    never = loop.call_later(3_600, lambda: None)

    def call_later(delay_s: float, flush: Callable[[], None]) -> asyncio.TimerHandle:
        later.append((delay_s, flush))
        return never

    monkeypatch.setattr(loop, "call_later", call_later)
    for _ in range(2):
        notes, error = _excess(desk)
        await desk.settle.settle(notes, error=error)
    ((delay_s, flush),) = later
    assert (delay_s, desk.journal.kept) == (1.0, [])
    flush()
    await desk.settle.drain()

    assert [e.repeated for e in desk.journal.kept] == [2]
    notes, error = _excess(desk)
    await desk.settle.settle(notes, error=error)
    assert len(later) == 2
    await desk.settle.drain()


async def test_what_had_begun_at_the_provider_is_recorded_by_itself() -> None:
    """The journal has a note of it, which only its own exchange takes away."""
    desk = Desk()
    notes, error = _excess(desk, OverloadedError)
    desk.settle.begin(notes)

    await desk.settle.settle(notes, error=error)

    assert [(e.emitter_seq, e.repeated) for e in desk.journal.kept] == [(1, 1)]


async def test_refusals_that_the_journal_cannot_keep_are_told_of() -> None:
    """With their number, so that losses can be counted."""
    desk = Desk(FullDisk())
    for _ in range(3):
        notes, error = _excess(desk)
        await desk.settle.settle(notes, error=error)

    await desk.settle.drain()

    assert [(e.exchange.repeated, e.journaled) for e in desk.observer.aggregates] == [(3, False)]
