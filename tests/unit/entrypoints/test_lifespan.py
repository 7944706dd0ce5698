"""Opening in order, closing in reverse, and flushing the sinks."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from harness.memory.clock import ManualClock
from harness.memory.journal import InMemoryJournal
from harness.memory.observers import RecordingObserver
from harness.simulated_time import in_simulated_time
from ibex.domain.record.delivery import CheckpointDelivery, DeliverExchanges
from ibex.domain.record.journal import JournalFullError
from ibex.entrypoints.lifespan import delivering, in_background, running


class Resource:
    """A resource that records when it is opened and closed, and can fail to open."""

    def __init__(self, name: str, notes: list[str], *, fails: bool = False) -> None:
        self.name = name
        self.notes = notes
        self.fails = fails
        self.runs = False

    async def open(self) -> None:
        """Open, or fail to."""
        self.notes.append(f"open {self.name}")
        if self.fails:
            raise ConnectionError(self.name)

    async def close(self) -> None:
        """Close."""
        self.notes.append(f"close {self.name}")

    async def aclose(self) -> None:
        """Close, like a transport."""
        self.notes.append(f"close {self.name}")

    async def recover(self, journal: Resource) -> None:
        """Record the recovery."""
        self.notes.append(f"recover {journal.name}")

    async def run(self) -> None:
        """Run until cancelled."""
        self.runs = True
        try:
            await asyncio.Event().wait()
        finally:
            self.runs = False

    async def drain(self) -> None:
        """Record the drain."""
        self.notes.append(f"drain {self.name}")


BACKGROUND = ("watch", "token_filter", "recover_journals", "abandon_idle_sessions")


class Graph:
    """The part of a container that ``running`` uses."""

    def __init__(self, notes: list[str], *, failing: str = "") -> None:
        def give(name: str) -> Any:
            resource = Resource(name, notes, fails=name == failing)
            return lambda: resource

        self.adapters = self
        for name in ("transport", "recorder"):
            setattr(self, name, give(name))
        self.resources = lambda: [give(name)() for name in ("database", "traces", "journal")]
        self.journal = give("journal")
        for name in BACKGROUND:
            setattr(self, name, give(name))
        self.background = self.deliveries = list
        self.span_export = lambda: None


OPENED = ["open database", "open traces", "open journal"]


async def test_resources_are_closed_in_reverse() -> None:
    """The recorder is drained first, and the journal is closed after the deliveries."""
    notes: list[str] = []
    async with running(cast("Any", Graph(notes))):
        notes.append("serve")
    assert notes == [
        *OPENED,
        "recover journal",
        "serve",
        "drain recorder",
        "close transport",
        "close journal",
        "close traces",
        "close database",
    ]


async def test_resources_are_closed_when_a_later_one_fails_to_open() -> None:
    """A failed start leaves nothing open."""
    notes: list[str] = []
    with pytest.raises(ConnectionError):
        async with running(cast("Any", Graph(notes, failing="traces"))):
            raise AssertionError("it must not get here")
    assert notes == [*OPENED[:2], "close traces", "close database"]


async def test_background_tasks_run_while_requests_are_served() -> None:
    """They include the watch and its filter. Afterwards none is running."""
    graph: Any = Graph([])
    work = [getattr(graph, name)() for name in BACKGROUND]
    async with running(graph):
        await asyncio.sleep(0)
        assert [one.runs for one in work] == [True] * len(work)
    assert [one.runs for one in work] == [False] * len(work)


class Failing:
    """A background task that fails at its first runs, and then runs until cancelled."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.runs_at: list[float] = []

    async def run(self) -> None:
        """Fail, or run."""
        self.runs_at.append(asyncio.get_running_loop().time())
        if len(self.runs_at) <= self.failures:
            raise LookupError("canary")
        await asyncio.Event().wait()


@in_simulated_time
async def test_a_background_task_that_fails_is_restarted(caplog: pytest.LogCaptureFixture) -> None:
    """It restarts after a second. The log names the task and the kind of error without its message."""
    task = Failing(failures=2)
    async with in_background([task]):
        await asyncio.sleep(10)

    assert [at - task.runs_at[0] for at in task.runs_at] == pytest.approx([0, 1, 2])
    assert caplog.messages == ["Failing failed (LookupError); it starts again"] * 2


class FullJournal(Resource):
    """A journal whose disk is full for a number of attempts."""

    def __init__(self, notes: list[str], tries: int) -> None:
        super().__init__("journal", notes)
        self._tries = tries
        self.is_open = asyncio.Event()

    async def open(self) -> None:
        """Open, once there is room."""
        self._tries -= 1
        if self._tries >= 0:
            self.notes.append("no room")
            raise JournalFullError("no room")
        await super().open()
        self.is_open.set()


async def test_a_full_disk_does_not_prevent_a_start() -> None:
    """The journal is opened and recovered later, and closed like any other."""
    notes: list[str] = []
    graph, journal = Graph(notes), FullJournal(notes, tries=3)
    graph.journal = lambda: journal
    graph.resources = lambda: [Resource("traces", notes), journal]
    async with running(cast("Any", graph), journal_retry_s=0.001):
        notes.append("serve")
        await journal.is_open.wait()
        await asyncio.sleep(0)
    assert notes == [
        *("open traces", "no room", "recover journal", "serve", "no room", "no room", "open journal"),
        *("recover journal", "drain recorder", "close transport", "close journal", "close traces"),
    ]


class HungStore:
    """A store that never completes a batch."""

    async def append(self, _checkpoints: object) -> None:
        """Block forever."""
        await asyncio.Event().wait()


async def test_deliveries_are_stopped_at_the_end() -> None:
    """No task is left, and an empty journal is flushed at once."""
    journal = InMemoryJournal()
    delivery = DeliverExchanges(
        journal,
        CheckpointDelivery(cast("Any", HungStore())),
        RecordingObserver(),
        ManualClock(),
        jitter=lambda: 0.0,
    )
    before = asyncio.all_tasks()
    async with delivering([delivery]):
        assert len(asyncio.all_tasks()) == len(before) + 1
    assert asyncio.all_tasks() == before
