"""`make bench-traces`: the cost of common queries on many traces, whether they use the key, and bytes per trace.

Makes 10 million rows of 60 days, or ``--rows N``, inside the embedded ClickHouse engine, on disk: 20 organizations, the
first with half of all requests, 200 agents, 4 workers that restart each day. Then queries as ``ibex traces`` does,
through the same adapter. Takes a minute and 2 GB of disk.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from harness.explained import explained
from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect
from ibex.adapters.clickhouse.engine import ClickHouseEngine
from ibex.adapters.clickhouse.migrate import migrate
from ibex.adapters.clickhouse.trace_queries import COLUMNS, EMITTERS, FIND, SLOW, SUMMARY, TAIL, TIMELINE
from ibex.adapters.clickhouse.traces import ClickHouseTraces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clickhouse_connect.driver.client import Client

DAYS: Final = 60
WORKERS: Final = 4
TRIES: Final = 20
CHUNK: Final = 500_000
LARGE, SMALL = UUID("0190c0de-0000-7000-8000-000000000000"), UUID("0190c0de-0000-7000-8000-000000000013")
HOUR, DAY, MONTH = timedelta(hours=1), timedelta(days=1), timedelta(days=30)
_US: Final = timedelta(microseconds=1)

# The random numbers are hashes of the row number, so that each run creates the same rows, except their ids.
_ROWS: Final = """
INSERT INTO {database:Identifier}.llm_traces (%s)
WITH
    toUInt64({rows:UInt64}) AS rows, toUInt64({a_day:UInt64}) AS a_day,
    (salt) -> (cityHash64(number, salt) %% 1000000) / 1000000 AS dice,
    toUInt64(if(dice('org') < 0.5, 0, floor(20 * pow(dice('which'), 2)))) AS org,
    org * 10 + toUInt64(floor(10 * pow(dice('agent'), 2))) AS agent,
    {days:UInt64} * 86400000000 / rows AS step_us,
    (row) -> toUInt64({now_us:UInt64} - (rows - row) * step_us) AS at_us,
    fromUnixTimestamp64Micro(toInt64(at_us(number)), 'UTC') AS asked,
    lower(leftPad(hex(intDiv(at_us(intDiv(number, a_day) * a_day), 1000)), 12, '0')) AS started_ms,
    dice('fate') < 0.02 AS failed,
    exp(5.5 + 1.1 * (dice('a') + dice('b') + dice('c') - 1.5)) AS ttfb,
    ttfb * (1 + 12 * pow(dice('length'), 3)) AS provider,
    0.15 + 0.2 * dice('overhead') + 4 * pow(dice('tail'), 40) AS own,
    toUInt32(50 + 2000 * pow(dice('in'), 3)) AS read, toUInt32(20 + 800 * pow(dice('out'), 2)) AS written
SELECT
    dateTimeToUUIDv7(toDateTime(asked)), toUUID('0190c0de-0000-7000-8000-' || leftPad(lower(hex(org)), 12, '0')),
    toUUID('0190c0de-0000-7000-9000-' || leftPad(lower(hex(agent)), 12, '0')),
    reinterpretAsUUID(sipHash128(agent, intDiv(number, 20000))), dateTimeToUUIDv7(toDateTime(asked)),
    ['gpt-4o-mini', 'gpt-4o', 'o4-mini', 'gpt-4.1'][1 + toUInt8(floor(4 * pow(dice('model'), 2)))], 'openai',
    dice('stream') < 0.7, read, if(failed, 0, written), read + if(failed, 0, written),
    if(dice('cached') < 0.3, intDiv(read, 2), 0), 0,
    round(0.005 + 0.01 * dice('auth'), 3), round(0.2 + 0.3 * dice('limit'), 3), round(0.002 + 0.01 * dice('d'), 3),
    round(0.01 + 0.02 * dice('i'), 3), round(ttfb, 3), round(own, 3), round(own + provider, 3),
    if(failed, 503, 200), not failed, if(failed, 'PROVIDER_UNAVAILABLE', ''), if(failed, '', 'stop'),
    1 + toUInt32(dice('again') < 0.01), reinterpretAsUUID(sipHash128(agent, 'version')),
    lower(hex(SHA256(toString(agent)))), if(dice('hit') < 0.99, 'hit', 'miss'),
    asked, asked + toIntervalMicrosecond(toUInt64(1000 * (own + provider))),
    toUUID(left(started_ms, 8)
        || '-' || right(started_ms, 4) || '-700' || toString(number %% 4) || '-8000-' || repeat('0', 12)),
    intDiv(number %% a_day, 4) + 1
FROM numbers({first:UInt64}, {count:UInt64})
"""


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(prog="bench-traces")
    parser.add_argument("--rows", type=int, default=10_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="ibex-bench-") as folder:
        engine = ClickHouseEngine(Path(folder) / "clickhouse")
        engine.start()
        try:
            url = f"{engine.url.rstrip('/')}/ibex"
            migrate(url)
            client = ClickHouseAddress.parse(url).connect(timeout_s=600)
            _fill(client, rows)
            _size(client)
            asyncio.run(_ask(url, client))
            disconnect(client)
        finally:
            engine.stop()


def _fill(client: Client, rows: int) -> None:
    a_day = max(WORKERS, rows // DAYS // WORKERS * WORKERS)
    started, now_us = time.monotonic(), time.time_ns() // 1_000
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        times = {"now_us": now_us, "a_day": a_day, "days": DAYS}
        values = {"database": "ibex", "rows": rows, "first": first, "count": count, **times}
        client.command(
            _ROWS % ", ".join(COLUMNS), parameters=values, settings={"max_threads": 1, "max_insert_threads": 1}
        )
    took = time.monotonic() - started
    client.command("OPTIMIZE TABLE ibex.llm_traces", settings={"max_threads": 1})
    _say(f"{rows:,} rows of {DAYS} days made in {took:.0f} s")


def _size(client: Client) -> None:
    query = (
        "SELECT sum(rows), sum(bytes_on_disk), count(), uniq(partition), sum(data_uncompressed_bytes)"
        " FROM system.parts WHERE database = 'ibex' AND table = 'llm_traces' AND active"
    )
    ((rows, size, parts, partitions, raw),) = client.query(query).result_rows
    _say(
        f"on disk: {size / rows:.1f} bytes a trace ({raw / rows:.0f} before compression), {size / 1e6:,.0f} MB in"
        f" {parts} parts of {partitions} months"
    )
    largest = client.query(
        "SELECT name, data_compressed_bytes FROM system.columns WHERE database = 'ibex' AND table = 'llm_traces'"
        " ORDER BY 2 DESC LIMIT 6"
    ).result_rows
    _say("  of these: " + ", ".join(f"{name} {bytes_ / rows:.1f}" for name, bytes_ in largest))


@dataclass(frozen=True, slots=True)
class Question:
    """A query, as the adapter runs it and as a statement for EXPLAIN; ``bound`` are its values."""

    name: str
    ask: Callable[[ClickHouseTraces], Awaitable[object]]
    query: str
    bound: dict[str, object]


def _of_an_hour(size: str, org: UUID) -> list[Question]:
    hour: dict[str, object] = {"org_id": org, "span_us": HOUR // _US}
    return [
        Question(f"tail, {size}", lambda t: t.tail(org, 20), TAIL, {**hour, "limit": 20}),
        Question(f"summary of the last hour, {size}", lambda t: t.summary(org, HOUR), SUMMARY, hour),
        Question(f"slow of the last hour, {size}", lambda t: t.slow(org, HOUR, 10), SLOW, {**hour, "limit": 10}),
    ]


def _of_longer() -> list[Question]:
    month: dict[str, object] = {"org_id": LARGE, "span_us": MONTH // _US}
    slices = {**month, "slice_us": MONTH // _US // 60}
    return [
        Question("summary of 30 days, large", lambda t: t.summary(LARGE, MONTH), SUMMARY, month),
        Question("timeline of 30 days, large", lambda t: t.timeline(LARGE, MONTH, 60), TIMELINE, slices),
        Question("slow of 30 days, large", lambda t: t.slow(LARGE, MONTH, 10), SLOW, {**month, "limit": 10}),
        Question("gaps of a day, all", lambda t: t.emitters(DAY), EMITTERS, {"span_us": DAY // _US}),
        Question("gaps of 30 days, all", lambda t: t.emitters(MONTH), EMITTERS, {"span_us": MONTH // _US}),
    ]


def _by_id(known: UUID) -> list[Question]:
    now_us = time.time_ns() // 1_000
    around, ever = ({"from_us": now_us - span // _US, "until_us": now_us + HOUR // _US} for span in (HOUR, 90 * DAY))
    unknown = UUID("0190c0de-0000-4000-8000-000000000000")  # contains no time, so everything is searched
    of: dict[str, object] = {"org_id": LARGE, "limit": 100}
    return [
        Question(
            "a request by its id, large",
            lambda t: t.find(LARGE, known),
            FIND,
            {**of, "request_id": known, **around},
        ),
        Question(
            "an id of nothing, large",
            lambda t: t.find(LARGE, unknown),
            FIND,
            {**of, "request_id": unknown, **ever},
        ),
    ]


async def _ask(url: str, client: Client) -> None:
    traces = ClickHouseTraces(url, timeout_s=600)
    await traces.open()
    (latest,) = await traces.tail(LARGE, 1)
    questions = (*_of_an_hour("large", LARGE), *_of_an_hour("small", SMALL), *_of_longer(), *_by_id(latest.request_id))
    for question in questions:
        await question.ask(traces)
        took = []
        for _ in range(TRIES):
            started = time.perf_counter()
            await question.ask(traces)
            took.append((time.perf_counter() - started) * 1_000)
        _say(f"\n{question.name}: p50 {statistics.median(took):.1f} ms, worst of {TRIES} {max(took):.1f} ms")
        for read in explained(client, question.query, {"database": "ibex", **question.bound}):
            for index in read:
                _say(f"  {index}")
    found = await traces.emitters(MONTH)
    _say(
        f"\nof 30 days: {len(found)} processes, {sum(one.missing + one.repeated for one in found)} missing or repeated"
    )
    await traces.close()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
