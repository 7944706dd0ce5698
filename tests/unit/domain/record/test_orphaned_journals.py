"""Recovery of orphaned journals."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.chat_scene import status_of
from harness.exchanges import an_exchange
from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from harness.memory.journal import InMemoryJournal
from harness.memory.observers import RecordingObserver
from harness.memory.sessions import InMemorySessions
from harness.memory.traces import InMemoryTraces
from ibex.domain.record.delivery import CheckpointDelivery, DeliverExchanges, TraceDelivery
from ibex.domain.record.journal import Journal, JournalUnavailableError, Sink, append_and_wait
from ibex.domain.record.orphaned_journals import SCAN_INTERVAL_S, RecoverJournals
from ibex.domain.record.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.domain.record.exchange import Exchange


class LeftJournal(InMemoryJournal):
    """A journal in which an exchange was begun."""

    def __init__(self, left: Sequence[Exchange] = ()) -> None:
        super().__init__()
        self.left = list(left)

    def unfinished(self) -> Sequence[Exchange]:
        """Return the exchanges that were begun."""
        return self.left


@dataclass(slots=True)
class ScriptedLeftJournals:
    """Returns the given journals one after the other, then None."""

    journals: list[Journal]
    given_back: list[Journal] = field(default_factory=list)

    async def take(self) -> Journal | None:
        """Return the next journal."""
        return self.journals.pop(0) if self.journals else None

    async def give_back(self, journal: Journal) -> None:
        """Take it back."""
        self.given_back.append(journal)


class Scene:
    """The use case over orphaned journals. It ends at the given sleep."""

    def __init__(self, *journals: Journal, sleeps: int = 1) -> None:
        self.left = ScriptedLeftJournals(list(journals))
        self.sessions, self.traces = InMemorySessions(ManualClock()), InMemoryTraces(ManualClock())
        self.own = InMemoryJournal()
        self.recorder = Recorder(self.own, [], SequentialIds(), status_of)
        self.slept: list[float] = []
        self._sleeps = sleeps

    def deliveries(self, journal: Journal) -> Sequence[DeliverExchanges]:
        """Return the deliveries of a journal."""
        return [
            DeliverExchanges(journal, to, RecordingObserver(), ManualClock(), jitter=lambda: 0.0)
            for to in (CheckpointDelivery(self.sessions), TraceDelivery(self.traces))
        ]

    async def run(self) -> None:
        """Recover journals."""
        use_case = RecoverJournals(self.left, self.recorder, self.deliveries, sleep=self._sleep)
        await asyncio.wait([asyncio.create_task(use_case.run())])

    async def _sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        if len(self.slept) == self._sleeps:
            raise asyncio.CancelledError


async def test_all_exchanges_of_all_orphaned_journals_are_delivered() -> None:
    """Both sinks receive them, and each journal is empty when it is released."""
    first, second = LeftJournal(), LeftJournal()
    for journal in (first, first, second):
        await append_and_wait(journal, an_exchange())
    scene = Scene(first, second)
    await scene.run()
    assert scene.left.given_back == [first, second]
    assert [journal.depth(sink) for journal in (first, second) for sink in Sink] == [0] * 4
    assert scene.slept == [SCAN_INTERVAL_S]


async def test_in_flight_exchanges_are_recorded_in_the_orphaned_journal() -> None:
    """They are incomplete, and have an emitter id and sequence numbers of their own."""
    begun = an_exchange(is_complete=False, emitter_seq=0)
    journal = LeftJournal([begun])
    scene = Scene(journal)
    await scene.run()
    caller = begun.caller
    assert caller is not None
    (trace,) = await scene.traces.tail(caller.org_id, 10)
    assert (trace.request_id, trace.is_complete, trace.emitter_seq) == (begun.request_id, False, 1)
    assert trace.emitter_id != begun.emitter_id
    assert scene.own.depth(Sink.TRACES) == 0


async def test_a_failing_journal_is_released() -> None:
    """The use case looks for journals again after a delay."""

    class Failing(LeftJournal):
        def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
            done(JournalUnavailableError(f"no room for {exchange.id}"))

    journal = Failing([an_exchange()])
    scene = Scene(journal, sleeps=2)
    await scene.run()
    assert scene.left.given_back == [journal]
    assert len(scene.slept) == 2
