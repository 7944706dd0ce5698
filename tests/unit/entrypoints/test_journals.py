"""Delivering orphaned journals and dead letters without a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from harness.journal_entries import new_exchange
from harness.memory.clock import ManualClock
from harness.memory.observers import RecordingObserver
from harness.memory.sessions import InMemorySessions
from harness.memory.traces import InMemoryTraces
from ibex.adapters.journal.dead_letters import TAKEN, append_dead_letter, count_dead_letters, taken_dead_letters
from ibex.adapters.journal.directories import claim_any
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import Sink, append_and_wait
from ibex.domain.record.sessions import SinkRefusedError, SinkUnavailableError
from ibex.entrypoints.journals import Sinks, drain, replay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.traces import Trace

TIMEOUT_S = 10.0


class RefusingTraces(InMemoryTraces):
    """A sink that refuses all batches with an error, as long as it has one."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.error: Exception | None = None
        self.asked = 0

    async def write(self, traces: Sequence[Trace], batch_token: str) -> None:
        """Store a batch, or raise the error."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        await super().write(traces, batch_token)

    def forget_batches(self) -> None:
        """Let the window pass in which ClickHouse recognizes a batch that it has."""
        self._tokens.clear()


class Scene:
    """A root directory, and stores in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sessions = InMemorySessions(ManualClock())
        self.traces = RefusingTraces()
        self.sinks = Sinks(self.sessions, self.traces, self.traces)
        self.observer = RecordingObserver()

    async def leave(self, *exchanges: Exchange, begun: Exchange | None = None) -> Path:
        """Leave a journal with these exchanges, and return its directory."""
        journal = SqliteJournal(self.root, SystemIds(), claim=claim_any)
        await journal.open()
        for exchange in exchanges:
            await append_and_wait(journal, exchange)
        if begun is not None:
            journal.begin(begun)
        await journal.close()
        return self.root / "0"

    def letter(self, directory: Path, sink: Sink, exchange: Exchange) -> None:
        """Write a dead letter."""
        letter = {"id": exchange.id, "exchange": msgspec.to_builtins(exchange)}
        append_dead_letter(directory, sink, "refused", letter)

    async def stored(self, exchange: Exchange) -> tuple[int, int]:
        """Return how often an exchange is stored, as a turn and as a trace."""
        assert exchange.caller is not None
        assert exchange.session is not None
        turns = await self.sessions.turns(exchange.caller.org_id, exchange.session.id)
        traces = await self.traces.find(exchange.caller.org_id, exchange.request_id)
        return sum(turn.request_id == exchange.request_id for turn in turns), len(traces)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A scene in a folder of its own."""
    return Scene(tmp_path)


async def test_orphaned_journals_are_delivered_to_both_stores(scene: Scene) -> None:
    """What a dead process had begun is recorded as well. A second call has nothing to do."""
    exchange, begun = new_exchange(), new_exchange()
    await scene.leave(exchange, begun=begun)

    assert await drain(scene.root, scene.sinks, scene.observer, TIMEOUT_S)
    assert await drain(scene.root, scene.sinks, scene.observer, TIMEOUT_S)

    assert [await scene.stored(one) for one in (exchange, begun)] == [(1, 1), (1, 1)]


async def test_a_drain_ends_at_its_timeout_and_keeps_the_rest(scene: Scene) -> None:
    """It says so. The next one delivers what is left, nothing twice."""
    exchange = new_exchange()
    await scene.leave(exchange)
    scene.traces.error = SinkUnavailableError("down")

    assert not await drain(scene.root, scene.sinks, scene.observer, 0.2)
    assert await scene.stored(exchange) == (1, 0)

    scene.traces.error = None
    assert await drain(scene.root, scene.sinks, scene.observer, TIMEOUT_S)
    assert await scene.stored(exchange) == (1, 1)


async def test_a_dead_letter_goes_only_to_the_store_that_refused_it(scene: Scene) -> None:
    """The other store has the exchange already, perhaps in another batch."""
    refused_trace, refused_turn = new_exchange(), new_exchange()
    directory = await scene.leave()
    scene.letter(directory, Sink.TRACES, refused_trace)
    scene.letter(directory, Sink.CHECKPOINTS, refused_turn)

    (outcome,) = await replay(scene.root, scene.sinks)

    assert (outcome.delivered, outcome.refused, outcome.unavailable, outcome.unreadable) == (2, 0, 0, 0)
    assert [await scene.stored(one) for one in (refused_trace, refused_turn)] == [(0, 1), (1, 0)]
    assert await replay(scene.root, scene.sinks) == []


async def test_a_replay_that_was_interrupted_stores_nothing_twice(scene: Scene) -> None:
    """It delivered the letters and died before it removed them. The next one finds them delivered."""
    one, other = new_exchange(), new_exchange()
    directory = await scene.leave()
    for exchange in (one, other):
        for sink in Sink:
            scene.letter(directory, sink, exchange)
    with pytest.raises(ZeroDivisionError), taken_dead_letters(directory):
        raise ZeroDivisionError
    lines = (directory / TAKEN).read_bytes()
    assert (await replay(scene.root, scene.sinks))[0].delivered == 4
    (directory / TAKEN).write_bytes(lines)
    scene.traces.forget_batches()

    assert (await replay(scene.root, scene.sinks))[0].delivered == 4

    assert [await scene.stored(exchange) for exchange in (one, other)] == [(1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("error", "expected", "asked"),
    [(SinkRefusedError("too large"), (2, 0), 2), (SinkUnavailableError("down"), (0, 2), 1)],
)
async def test_letters_that_cannot_be_delivered_stay(
    scene: Scene, error: Exception, expected: tuple[int, int], asked: int
) -> None:
    """The outcome says why. A store that is down is asked once."""
    directory = await scene.leave()
    for _ in range(2):
        scene.letter(directory, Sink.TRACES, new_exchange())
    append_dead_letter(directory, Sink.TRACES, "r", {"id": "without its exchange"})
    scene.traces.error = error

    (outcome,) = await replay(scene.root, scene.sinks)

    assert (outcome.refused, outcome.unavailable) == expected
    assert (outcome.delivered, outcome.unreadable, outcome.reason) == (0, 1, str(error))
    assert scene.traces.asked == asked
    assert count_dead_letters(directory) == 3
