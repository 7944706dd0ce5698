"""The contract of ``TraceHistory`` for timelines, slow requests and gaps, in memory and in ClickHouse.

``test_trace_sink`` covers the tail and the summary.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

import pytest

from harness.clickhouse import CLUSTER
from harness.exchanges import an_exchange
from harness.memory.traces import InMemoryTraces
from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.adapters.system.clock import SystemClock
from ibex.domain.record.history import EmitterRecord, TimeSlice, TraceHistory
from ibex.domain.record.traces import Trace, TraceSink, trace_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ORG = UUID("0190c0de-0000-7000-8000-0000000000a1")
HOUR = timedelta(hours=1)


class TraceStore(TraceSink, TraceHistory, Protocol):
    """Both ports of one store."""


@pytest.fixture(
    params=[
        "memory",
        pytest.param("server", marks=pytest.mark.integration),
        pytest.param("cluster", marks=pytest.mark.integration),
    ]
)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[TraceStore]:
    """An empty store of each kind in turn."""
    if request.param == "memory":
        yield InMemoryTraces(SystemClock())
        return
    fixture = "module_clickhouse" if request.param == "server" else "module_cluster"
    database, cluster = request.getfixturevalue(fixture), CLUSTER if request.param == "cluster" else None
    database.empty("llm_traces" if cluster is None else "llm_traces_local")
    traces = ClickHouseTraces(database.url, cluster=cluster)
    await traces.open()
    yield traces
    await traces.close()


def traced(minutes_ago: float = 1, *, took_minutes: float = 0, **changes: Any) -> Trace:
    """Return a trace of ``ORG``, requested that long ago."""
    trace = trace_of(an_exchange())
    assert trace is not None
    requested_at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    completed_at = requested_at + timedelta(minutes=took_minutes)
    own = {"request_id": uuid4(), "org_id": ORG, "requested_at": requested_at, "completed_at": completed_at}
    return replace(trace, **{**own, **changes})


def process_started(minutes_ago: float) -> UUID:
    """Return the id, a UUIDv7, of a process that started that long ago."""
    started_ms = int((datetime.now(UTC) - timedelta(minutes=minutes_ago)).timestamp() * 1_000)
    return UUID(int=started_ms << 80 | 7 << 76 | 2 << 62 | uuid4().int & (1 << 62) - 1)


async def test_the_timeline_divides_its_span_into_slices(store: TraceStore) -> None:
    """Slices are ordered by time. They contain neither older requests nor those of another organization."""
    batch = [
        *(traced(minutes, error_code="", input_tokens=10, output_tokens=1) for minutes in (1, 2, 14, 46, 61)),
        traced(47, error_code="PROVIDER_TIMEOUT", input_tokens=5, output_tokens=0),
        traced(1, org_id=uuid4()),
    ]
    await store.write(batch, "a-batch")

    found = list(await store.timeline(ORG, HOUR, 4))

    assert found == [TimeSlice(2, 1, 15, 1), TimeSlice(0, 0, 0, 0), TimeSlice(0, 0, 0, 0), TimeSlice(3, 0, 30, 3)]
    assert list(await store.timeline(uuid4(), HOUR, 3)) == [TimeSlice(0, 0, 0, 0)] * 3


async def test_the_timeline_adds_up_to_all_requests_of_the_span(store: TraceStore) -> None:
    """The number of slices does not change the sum."""
    await store.write([traced(minutes) for minutes in range(1, 59)], "a-batch")

    for slices in (1, 7, 48):
        assert sum(one.requests for one in await store.timeline(ORG, HOUR, slices)) == 58


async def test_a_row_counts_the_requests_that_it_represents(store: TraceStore) -> None:
    """The timeline and the summary count all of them. For its process the row is one number."""
    process = process_started(30)
    refused = traced(2, error_code="RATE_LIMITED", emitter_id=process, emitter_seq=1, is_complete=False, repeated=1_000)
    fine = traced(1, error_code="", emitter_id=process, emitter_seq=2)
    await store.write([refused, fine], "a-batch")

    assert [(one.requests, one.errors) for one in await store.timeline(ORG, HOUR, 1)] == [(1_001, 1_000)]
    assert sum(one.requests for one in await store.summary(ORG, HOUR)) == 1_001
    assert sum(one.errors for one in await store.summary(ORG, HOUR)) == 1_000
    (found,) = await store.emitters(HOUR)
    assert (found.rows, found.requests, found.missing, found.repeated) == (2, 1_001, 0, 0)
    assert [one.repeated for one in await store.tail(ORG, 10)] == [1_000, 1]


async def test_the_slowest_requests_come_first(store: TraceStore) -> None:
    """The total latency decides. The list is limited by number, span and organization."""
    durations = (5.0, 9.0, 1.0, 7.0)
    traces = [traced(total_latency_ms=duration) for duration in durations]
    others = [traced(90, total_latency_ms=100.0), traced(org_id=uuid4(), total_latency_ms=100.0)]
    await store.write([*traces, *others], "a-batch")

    assert list(await store.slow(ORG, HOUR, 3)) == [traces[1], traces[3], traces[0]]
    assert len(await store.slow(ORG, 2 * HOUR, 10)) == 5
    assert list(await store.slow(uuid4(), HOUR, 10)) == []


async def test_a_process_without_gaps_has_no_missing_numbers(store: TraceStore) -> None:
    """Its numbers continue across organizations, in any order of batches."""
    process = process_started(30)
    traces = [traced(20 - n, org_id=uuid4(), emitter_id=process, emitter_seq=n) for n in range(1, 11)]
    await store.write(traces[5:], "late")
    await store.write(traces[:5], "early")

    (found,) = await store.emitters(HOUR)

    assert found == EmitterRecord(process, 1, 10, 10, 0, 0, traces[-1].completed_at, 10)


@pytest.mark.parametrize(("numbers", "missing", "repeated"), [((1, 2, 5), 2, 0), ((3, 4), 2, 0), ((1, 2, 2, 3), 0, 1)])
async def test_missing_and_repeated_numbers_are_counted(
    store: TraceStore, numbers: tuple[int, ...], missing: int, repeated: int
) -> None:
    """The first numbers of a process that started within the span count as missing too."""
    process = process_started(30)
    await store.write([traced(emitter_id=process, emitter_seq=number) for number in numbers], "a-batch")

    (found,) = await store.emitters(HOUR)

    assert (found.first, found.last, found.rows) == (1, numbers[-1], len(numbers))
    assert (found.missing, found.repeated) == (missing, repeated)


async def test_the_start_of_the_span_creates_no_gap(store: TraceStore) -> None:
    """A process that started earlier is counted from its first number in the span.

    A long request may reach into the span.
    """
    process = process_started(300)
    before = [traced(200 - n, emitter_id=process, emitter_seq=n) for n in range(1, 100)]
    long = traced(80, took_minutes=70, emitter_id=process, emitter_seq=102)
    after = [traced(50, emitter_id=process, emitter_seq=101), traced(5, emitter_id=process, emitter_seq=103)]
    at_the_edge = traced(61, emitter_id=process, emitter_seq=100)
    await store.write([*before, long, at_the_edge, *after], "a-batch")

    (found,) = await store.emitters(HOUR)

    assert (found.first, found.last, found.rows, found.missing) == (101, 103, 3, 0)


async def test_recovered_requests_count_for_their_process(store: TraceStore) -> None:
    """The process started within the span, although the recovered requests are older."""
    process = process_started(10)
    traces = [traced(minutes, emitter_id=process, emitter_seq=n) for n, minutes in ((1, 59), (2, 120), (3, 61))]
    await store.write(traces, "a-batch")

    (found,) = await store.emitters(HOUR)

    assert (found.first, found.last, found.rows, found.missing) == (1, 3, 3, 0)


async def test_processes_are_ordered_by_their_latest_request(store: TraceStore) -> None:
    """A process without a completed request in the span is not listed."""
    processes = [process_started(100) for _ in range(3)]
    traces = [traced(ago, emitter_id=p, emitter_seq=1) for p, ago in zip(processes, (30, 90, 3), strict=True)]
    await store.write(traces, "a-batch")

    assert [found.emitter_id for found in await store.emitters(HOUR)] == [processes[2], processes[0]]
    assert list(await store.emitters(timedelta(minutes=1))) == []
