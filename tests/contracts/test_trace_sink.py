"""The contract of ``TraceSink`` and ``TraceHistory``, in memory and in ClickHouse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

import pytest

from harness.clickhouse import CLUSTER
from harness.exchanges import a_refusal, an_exchange
from harness.memory.traces import InMemoryTraces
from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.adapters.system.clock import SystemClock
from ibex.domain.record.history import ModelSummary, TraceHistory
from ibex.domain.record.traces import Trace, TraceSink, trace_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.record.exchange import Exchange

ORG = UUID("0190c0de-0000-7000-8000-0000000000a1")
HOUR = timedelta(hours=1)


class TraceStore(TraceSink, TraceHistory, Protocol):
    """Both ports of one store."""


@pytest.fixture(
    params=[
        "memory",
        pytest.param("server", marks=pytest.mark.integration),
        pytest.param("chdb", marks=pytest.mark.integration),
        pytest.param("cluster", marks=pytest.mark.integration),
    ]
)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[TraceStore]:
    """An empty store of each kind in turn."""
    if request.param == "memory":
        yield InMemoryTraces(SystemClock())
        return
    fixture = {"server": "module_clickhouse", "chdb": "module_chdb", "cluster": "module_cluster"}[request.param]
    database, cluster = request.getfixturevalue(fixture), CLUSTER if request.param == "cluster" else None
    database.empty("llm_traces" if cluster is None else "llm_traces_local")
    traces = ClickHouseTraces(database.url, cluster=cluster)
    await traces.open()
    yield traces
    await traces.close()


def traced(exchange: Exchange, *, minutes_ago: float = 1, **changes: Any) -> Trace:
    """Return the trace of an exchange of ``ORG``, requested that long ago."""
    trace = trace_of(exchange)
    assert trace is not None
    requested_at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    own = {"request_id": uuid4(), "org_id": ORG, "requested_at": requested_at, "completed_at": requested_at}
    return replace(trace, **{**own, **changes})


async def test_a_trace_is_stored_with_every_field(store: TraceStore) -> None:
    """Times keep their microseconds, and ids, flags and texts are equal."""
    trace = traced(an_exchange())
    await store.write([trace], "a-batch")
    assert list(await store.tail(ORG, 10)) == [trace]


async def test_a_refused_request_is_stored(store: TraceStore) -> None:
    """Fields that the request never had are empty or nil."""
    trace = traced(a_refusal(), error_code="AGENT_NOT_AUTHORIZED")
    await store.write([trace], "a-batch")
    assert list(await store.tail(ORG, 10)) == [trace]


async def test_texts_with_special_characters_are_stored_unchanged(store: TraceStore) -> None:
    """Quotes, tabs, newlines, NUL and all scripts are values, never syntax."""
    trace = traced(an_exchange(), model="mo'del\\\t\"\n`;--\x00 \u00e9\u4e2d\U0001f9ca", finish_reason=" stop ")
    await store.write([trace], "a-batch'; --")
    assert list(await store.tail(ORG, 10)) == [trace]


async def test_the_largest_numbers_are_stored(store: TraceStore) -> None:
    """Counts have the maximum of the domain, and durations are days with microseconds."""
    most = (1 << 31) - 1
    trace = traced(
        an_exchange(),
        input_tokens=most,
        total_tokens=most,
        reasoning_tokens=most,
        emitter_seq=1 << 62,
        attempts=1_000,
        total_latency_ms=259_200_000.001,
    )
    await store.write([trace], "a-batch")
    assert list(await store.tail(ORG, 10)) == [trace]


async def test_a_repeated_batch_counts_once(store: TraceStore) -> None:
    """The batch has the same members and token each time."""
    batch = [traced(an_exchange(), emitter_seq=n) for n in range(1, 4)]
    for _ in range(3):
        await store.write(batch, "a-batch")
    assert len(await store.tail(ORG, 100)) == 3


async def test_equal_rows_with_different_tokens_count_separately(store: TraceStore) -> None:
    """The token identifies a batch, not its content."""
    batch = [traced(an_exchange())]
    for token in ("a-batch", "another-batch"):
        await store.write(batch, token)
    assert len(await store.tail(ORG, 100)) == 2


async def test_a_repeated_batch_across_months_counts_once(store: TraceStore) -> None:
    """Its rows belong to different partitions."""
    batch = [traced(an_exchange(), minutes_ago=minutes) for minutes in (1, 60 * 24 * 40)]
    for _ in range(2):
        await store.write(batch, "a-batch")
    assert len(await store.tail(ORG, 100)) == 2


async def test_an_empty_batch_stores_nothing(store: TraceStore) -> None:
    """It raises no error."""
    await store.write([], "a-batch")
    assert list(await store.tail(ORG, 10)) == []


async def test_the_tail_contains_the_latest_requests_in_order(store: TraceStore) -> None:
    """The time of the requests decides, not the order of batches. The limit is never exceeded."""
    traces = [traced(an_exchange(), minutes_ago=minutes, emitter_seq=10 - minutes) for minutes in (5, 4, 3, 2, 1)]
    await store.write(traces[3:], "late")
    await store.write(traces[:3], "early")
    assert list(await store.tail(ORG, 3)) == traces[2:]
    assert list(await store.tail(ORG, 100)) == traces


@pytest.mark.parametrize("minutes_ago", [0, 90, 60 * 24 * 3, 60 * 24 * 80])
@pytest.mark.parametrize("has_time_in_it", [True, False])
async def test_a_trace_is_found_by_its_request_id(
    store: TraceStore, minutes_ago: float, *, has_time_in_it: bool
) -> None:
    """Its age does not matter, nor whether the id contains a time."""
    asked_ms = int((datetime.now(UTC) - timedelta(minutes=minutes_ago)).timestamp() * 1_000)
    request_id = UUID(int=asked_ms << 80 | 7 << 76 | 2 << 62 | 5) if has_time_in_it else uuid4()
    trace = traced(an_exchange(), minutes_ago=minutes_ago, request_id=request_id)
    await store.write([trace, *(traced(an_exchange(), minutes_ago=minutes_ago) for _ in range(3))], "a-batch")
    assert await store.find(ORG, request_id) == [trace]
    assert await store.find(uuid4(), request_id) == []
    assert await store.find(ORG, uuid4()) == []


@pytest.mark.parametrize("made_ms", [0, (1 << 48) - 1])
async def test_a_request_is_found_if_its_id_contains_a_wrong_time(store: TraceStore, made_ms: int) -> None:
    """A client's clock and ids are not reliable."""
    trace = traced(an_exchange(), request_id=UUID(int=made_ms << 80 | 7 << 76 | 2 << 62 | 5))
    await store.write([trace], "a-batch")
    assert await store.find(ORG, trace.request_id) == [trace]


@pytest.mark.parametrize("has_time_in_it", [True, False])
async def test_all_requests_with_one_id_are_found(store: TraceStore, *, has_time_in_it: bool) -> None:
    """Clients may reuse an id. The latest request comes first, and requests with other ids are not found."""
    now_ms = int(datetime.now(UTC).timestamp() * 1_000)
    request_id = UUID(int=now_ms << 80 | 7 << 76 | 2 << 62 | 7) if has_time_in_it else uuid4()
    traces = [
        traced(an_exchange(emitter_seq=minutes), minutes_ago=minutes, request_id=request_id) for minutes in (1, 5, 3)
    ]
    await store.write(traces, "a-batch")
    await store.write([traced(an_exchange())], "another-batch")
    assert await store.find(ORG, request_id) == [traces[0], traces[2], traces[1]]


async def test_a_trace_is_found_by_its_checkpoint_id(store: TraceStore) -> None:
    """A session shows the checkpoint id of a turn if an earlier turn has its request id."""
    trace = traced(an_exchange())
    await store.write([trace, traced(an_exchange(id=uuid4(), request_id=uuid4()))], "a-batch")
    assert await store.find(ORG, trace.checkpoint_id) == [trace]


async def test_the_tail_searches_back_until_its_limit_is_reached(store: TraceStore) -> None:
    """It covers days or months if few requests are recent."""
    day = 24 * 60
    traces = [traced(an_exchange(), minutes_ago=minutes) for minutes in (60 * day, 3 * day, day / 2, 90, 5)]
    await store.write(traces, "a-batch")
    for limit in range(1, 6):
        assert list(await store.tail(ORG, limit)) == traces[-limit:]


async def test_traces_are_found_by_their_time_of_insertion(store: TraceStore) -> None:
    """The age and number of requests do not matter. Traces of another organization are not found."""
    early = [traced(an_exchange(), minutes_ago=minutes) for minutes in (3, 2, 1)]
    late = [traced(an_exchange(), minutes_ago=minutes) for minutes in (60 * 24 * 10, 5, *([0.5] * 120))]
    began = await store.now()
    await store.write([*early, traced(an_exchange(), org_id=uuid4())], "early")
    between = (await store.inserted(ORG, began))[-1].inserted_at + timedelta(microseconds=1)
    await store.write(late, "late")

    assert [one.trace for one in await store.inserted(ORG, began)][:3] == early
    assert [one.trace for one in await store.inserted(ORG, between)][:2] == late[:2]
    assert len(await store.inserted(ORG, between)) == 122
    assert await store.inserted(ORG, await store.now() + timedelta(minutes=1)) == []
    times = [one.inserted_at for one in await store.inserted(ORG, began)]
    assert times == sorted(times)
    assert began <= times[0]
    assert times[-1] <= await store.now()


async def test_an_organization_sees_only_its_own_traces(store: TraceStore) -> None:
    """Neither the tail nor the summary contains a row of another organization."""
    await store.write([traced(an_exchange(), org_id=uuid4()), traced(an_exchange())], "a-batch")
    assert [trace.org_id for trace in await store.tail(ORG, 10)] == [ORG]
    assert [row.requests for row in await store.summary(ORG, HOUR)] == [1]
    assert list(await store.summary(uuid4(), HOUR)) == []


async def test_the_summary_counts_by_model_and_provider(store: TraceStore) -> None:
    """Rows are ordered by requests, then by name. Errors and tokens are summed."""
    ok = an_exchange()
    batch = [
        traced(ok, model="b"),
        traced(ok, model="a"),
        traced(ok, model="z"),
        traced(ok, model="z", error_code="PROVIDER_TIMEOUT", is_complete=False),
        traced(ok, model="z", provider="echo"),
    ]
    await store.write(batch, "a-batch")
    rows = await store.summary(ORG, HOUR)
    assert [(r.model, r.provider, r.requests, r.errors) for r in rows] == [
        ("z", "openai", 2, 1),
        ("a", "openai", 1, 0),
        ("b", "openai", 1, 0),
        ("z", "echo", 1, 0),
    ]
    assert (rows[0].input_tokens, rows[0].output_tokens) == (22, 14)


async def test_percentiles_cover_only_complete_requests(store: TraceStore) -> None:
    """They are interpolated between neighbours."""
    batch = [
        traced(an_exchange(), provider_ttfb_ms=n * 1.0, total_latency_ms=n * 10.0, proxy_overhead_ms=n / 10)
        for n in range(1, 102)
    ]
    failed = traced(an_exchange(), is_complete=False, total_latency_ms=1e9, provider_ttfb_ms=1e9, proxy_overhead_ms=1e9)
    await store.write([*batch, failed], "a-batch")
    (row,) = await store.summary(ORG, HOUR)
    assert (row.requests, row.ttfb_p50_ms, row.total_p50_ms) == (102, 51.0, 510.0)
    assert row.ttfb_p99_ms == pytest.approx(100.0)
    assert row.total_p90_ms == pytest.approx(910.0)
    assert row.total_p99_ms == pytest.approx(1_000.0)
    assert row.overhead_p50_ms == pytest.approx(5.1)
    assert row.overhead_p99_ms == pytest.approx(10.0)


async def test_percentiles_without_complete_requests_are_zero(store: TraceStore) -> None:
    """A model with failures only has counts and no durations."""
    await store.write([traced(a_refusal(), model="gpt-4o", error_code="RATE_LIMITED")], "a-batch")
    assert list(await store.summary(ORG, HOUR)) == [ModelSummary("gpt-4o", "", 1, 1, 0, 0, *[0.0] * 7)]


async def test_the_summary_covers_its_span_only(store: TraceStore) -> None:
    """Older requests do not count."""
    await store.write([traced(an_exchange(), minutes_ago=30), traced(an_exchange(), minutes_ago=90)], "a-batch")
    assert [row.requests for row in await store.summary(ORG, HOUR)] == [1]
    assert [row.requests for row in await store.summary(ORG, 2 * HOUR)] == [2]
