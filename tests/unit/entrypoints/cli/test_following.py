"""Following the tail of the traces until Ctrl-C."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.exchanges import REQUESTED_AT, an_exchange
from harness.memory.clock import ManualClock
from harness.memory.sessions import InMemorySessions
from harness.memory.traces import InMemoryTraces
from ibex.domain.errors import ServiceDegradedError
from ibex.domain.record.history import InsertedTrace
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from harness.cli_scene import CliScene
    from ibex.domain.record.traces import Trace


def traces(number: int) -> list[Trace]:
    """Return a number of traces, one second apart."""
    made = [
        trace_of(
            an_exchange(request_id=UUID(int=n + 1), requested_at=REQUESTED_AT + timedelta(seconds=n), emitter_seq=n + 1)
        )
        for n in range(number)
    ]
    return [trace for trace in made if trace is not None]


class Watched(InMemoryTraces):
    """A history that interrupts its reader at the end."""

    def __init__(self, found: Sequence[Trace], *later: Sequence[Trace]) -> None:
        super().__init__(ManualClock())
        self.found = found
        self.later = list(later)
        self.interrupts_tail = False
        self.looks = 0
        self.asked: list[tuple[UUID, int]] = []

    async def tail(self, org_id: UUID, limit: int) -> Sequence[Trace]:
        """Return the existing traces."""
        self.asked.append((org_id, limit))
        if self.interrupts_tail:
            raise KeyboardInterrupt
        return self.found

    async def inserted(self, _org_id: UUID, _since: datetime) -> Sequence[InsertedTrace]:
        """Return the existing traces at first, and then one later batch per call."""
        self.looks += 1
        if self.looks == 1:
            return [InsertedTrace(await self.now(), trace) for trace in self.found]
        if not self.later:
            raise KeyboardInterrupt
        return [InsertedTrace(await self.now(), trace) for trace in self.later.pop(0)]


class Unavailable(InMemorySessions):
    """Sessions in a database that is down."""

    async def handles(self, _org_id: UUID, _session_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Raise the error of an outage."""
        raise ServiceDegradedError


@pytest.fixture
def watched(ibex: CliScene) -> Watched:
    """Two traces of the only organization."""
    ibex.run("org", "create", "acme")
    history = Watched(traces(2))
    ibex.use_cases = replace(ibex.use_cases, traces=history)
    return history


def test_ctrl_c_ends_following_with_exit_code_0(ibex: CliScene, watched: Watched) -> None:
    """The headings are printed once, and each request has one line."""
    done = ibex.run("traces", "tail", "--follow", "-n", "7")

    assert (done.code, done.err) == (0, "")
    headings, *rows = done.out.splitlines()
    assert headings.startswith("requested")
    assert {row.index(str(UUID(int=8))) for row in rows} == {headings.rindex("session")}
    lines = [row.split() for row in rows]
    assert [(line[2], line[4], line[5]) for line in lines] == [("200", "gpt-4o", "11→7")] * 2
    (asked,) = watched.asked
    assert asked[1:] == (7,)


def test_an_outage_of_postgres_does_not_end_following(ibex: CliScene, watched: Watched) -> None:
    """ClickHouse still has the traces. The column of the session has its id instead of its handle."""
    watched.later = [[trace] for trace in traces(3)[2:]]
    ibex.use_cases = replace(ibex.use_cases, sessions=Unavailable(ManualClock()))

    done = ibex.run("traces", "tail", "--follow")

    assert (done.code, done.err) == (0, "")
    _, *rows = done.out.splitlines()
    assert [row.split()[-1] for row in rows] == [str(UUID(int=8))] * 3


def test_following_as_json_prints_one_document_per_line(ibex: CliScene, watched: Watched) -> None:
    """Each line is a complete trace, so that programs can read it at once."""
    done = ibex.run("traces", "tail", "-f", "--json")

    assert done.code == 0
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["request_id"] for row in rows] == [str(trace.request_id) for trace in watched.found]
    assert rows[0]["directive_hash"] == "c3" * 32


def test_ctrl_c_without_following_exits_with_1(ibex: CliScene, watched: Watched) -> None:
    """The output is incomplete. No traceback is printed."""
    watched.interrupts_tail = True
    done = ibex.run("traces", "tail", "--json")

    assert (done.code, done.out, done.err.strip()) == (1, "", "")
    assert len(watched.asked) == 1


def test_every_new_trace_is_shown_once(ibex: CliScene) -> None:
    """These are 120 traces in one batch, and then a long stream that was requested before them."""
    ibex.run("org", "create", "acme")
    long, *burst = traces(121)
    ibex.use_cases = replace(ibex.use_cases, traces=Watched([], burst, [long]))

    done = ibex.run("traces", "tail", "-f", "--json")

    shown = [json.loads(line)["request_id"] for line in done.out.splitlines()]
    assert shown == [str(trace.request_id) for trace in (*burst, long)]
