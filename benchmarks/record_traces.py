"""`make bench-record ARGS="--sinks 16 --seconds 60"`: how many parts the sinks of many workers create in ClickHouse.

Each sink is a process. Traces arrive at a fixed rate, and each sink writes them in batches as delivery makes them. It
writes every twentieth batch twice, as after a lost response. The server is the ClickHouse engine, or the one that
IBEX_TEST_CLICKHOUSE_URL names, with the cluster in IBEX_TEST_CLICKHOUSE_CLUSTER. Only a server collects the batches of
several sinks in one part: the engine stores each batch as a part.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

from harness.exchanges import an_exchange
from ibex.adapters.clickhouse.connection import ClickHouseAddress, disconnect
from ibex.adapters.clickhouse.engine import ClickHouseEngine
from ibex.adapters.clickhouse.layout import Layout
from ibex.adapters.clickhouse.migrate import migrate
from ibex.adapters.clickhouse.traces import ClickHouseTraces
from ibex.domain.record.delivery import BATCH_ROWS, LINGER_S
from ibex.domain.record.traces import trace_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

    from clickhouse_connect.driver.client import Client

REPEATED: Final = 20
POLL_S: Final = 0.01
CATCH_UP_S: Final = 30.0
_SEEN: Final = "SELECT emitter_id, max(emitter_seq) FROM {database:Identifier}.llm_traces GROUP BY emitter_id"
_STORED: Final = "SELECT count(), uniqExact(emitter_id, emitter_seq) FROM {database:Identifier}.llm_traces"
# Each part that was ever inserted has taken a number of its partition, which merged parts keep.
_PARTS: Final = """
SELECT sum(parts) FROM (
    SELECT max(max_block_number) AS parts FROM system.parts
    WHERE database = {database:String} AND table = {table:String} GROUP BY partition_id
)
"""


@dataclass(frozen=True, slots=True)
class Written:
    """A sink's traces: the time at which each arrived, by its number from 1; batches, and how long each took."""

    emitter_id: UUID
    arrived: list[float]
    batches: list[float]


def measure_sinks(sinks: int, rate: float, seconds: float) -> None:
    """Measure and print."""
    with _server() as (url, cluster):
        migrate(url, cluster=cluster, batches_per_second=1_000)
        context = multiprocessing.get_context("spawn")
        ready, results = context.Barrier(sinks + 1), context.Queue()
        own = (url, cluster, rate / sinks, seconds, ready, results)
        processes = [context.Process(target=_sink, args=own) for _ in range(sinks)]
        for process in processes:
            process.start()
        address = ClickHouseAddress.parse(url)
        client = address.connect()
        try:
            ready.wait()
            written, seen = _watched(client, address.database, results, sinks)
            _report(written, seen, seconds, _stored(client, Layout(address.database, cluster)))
        finally:
            for process in processes:
                process.join()
            client.command("DROP DATABASE {name:Identifier}", parameters={"name": address.database})
            disconnect(client)


@contextmanager
def _server() -> Iterator[tuple[str, str | None]]:
    """Yield the URL of a database that does not exist yet, and the cluster."""
    database = f"/bench_{uuid4().hex}"
    named = os.environ.get("IBEX_TEST_CLICKHOUSE_URL")
    if named:
        yield urlunsplit(urlsplit(named)._replace(path=database)), os.environ.get("IBEX_TEST_CLICKHOUSE_CLUSTER")
        return
    folder = Path(tempfile.mkdtemp(prefix="ibex-bench-"))
    engine = ClickHouseEngine(folder / "clickhouse")
    try:
        engine.start()
        yield engine.url + database, None
    finally:
        engine.stop()
        shutil.rmtree(folder)


def _sink(url: str, cluster: str | None, rate: float, seconds: float, ready: Barrier, results: Queue[Written]) -> None:
    """Write traces at this rate, in a process of its own."""
    results.put(asyncio.run(_write(url, cluster, rate, seconds, ready)))


async def _write(url: str, cluster: str | None, rate: float, seconds: float, ready: Barrier) -> Written:
    written = Written(uuid4(), [], [])
    trace = trace_of(an_exchange())
    if trace is None:
        raise RuntimeError("the exchange has no trace")
    traces = ClickHouseTraces(url, cluster=cluster)
    await traces.open()
    await traces.ping()
    await asyncio.to_thread(ready.wait)
    began, total, done = time.time(), round(rate * seconds), 0
    while done < total:
        await asyncio.sleep(LINGER_S)
        batch = range(done, min(total, int((time.time() - began) * rate), done + BATCH_ROWS))
        own: dict[str, Any] = {"emitter_id": written.emitter_id, "requested_at": datetime.now(UTC)}
        rows = [replace(trace, emitter_seq=n + 1, **own) for n in batch]
        started = time.time()
        await traces.write(rows, f"{written.emitter_id}-{done}")
        written.batches.append(time.time() - started)
        if len(written.batches) % REPEATED == 0:
            await traces.write(rows, f"{written.emitter_id}-{done}")
        written.arrived.extend(began + n / rate for n in batch)
        done = batch.stop if batch else done
    await traces.close()
    return written


def _watched(
    client: Client, database: str, results: Queue[Written], sinks: int
) -> tuple[list[Written], dict[UUID, list[tuple[float, int]]]]:
    """Ask for the highest number of each sink until all have written and are seen. Return the times of the answers."""
    written: list[Written] = []
    seen: dict[UUID, list[tuple[float, int]]] = {}
    deadline = math.inf
    while time.time() < deadline:
        for emitter_id, number in client.query(_SEEN, parameters={"database": database}).result_rows:
            seen.setdefault(emitter_id, []).append((time.time(), number))
        while not results.empty():
            written.append(results.get())
        if len(written) == sinks:
            deadline = min(deadline, time.time() + CATCH_UP_S)
            if all(seen[one.emitter_id][-1][1] == len(one.arrived) for one in written):
                break
        time.sleep(POLL_S)
    return written, seen


def _stored(client: Client, layout: Layout) -> tuple[int, int, int]:
    """Return the rows, the different rows, and the parts that inserts have created."""
    bound = {"database": layout.database, "table": layout.written}
    rows, different = client.query(_STORED, parameters=bound).result_rows[0]
    return rows, different, client.query(_PARTS, parameters=bound).result_rows[0][0]


def _report(
    written: list[Written], seen: dict[UUID, list[tuple[float, int]]], seconds: float, stored: tuple[int, int, int]
) -> None:
    delays = sorted(delay for one in written for delay in _delays(one, seen[one.emitter_id]))
    batches = [took for one in written for took in one.batches]
    rows, different, parts = stored
    _say(f"{len(written)} sinks, {len(delays):,} traces in {seconds:g} s, every {REPEATED}th batch written twice")
    _say(
        f"  {len(batches) / seconds:6.1f} batches/s of {len(delays) / len(batches):.0f} rows,"
        f" median {statistics.median(batches) * 1_000:.0f} ms; {parts / seconds:6.1f} parts/s"
    )
    _say(f"  {sum(len(one.arrived) for one in written) - different} lost, {rows - different} doubled")
    p99 = delays[math.ceil(len(delays) * 0.99) - 1]
    _say(
        f"  visible after: median {statistics.median(delays) * 1_000:.0f} ms, p99 {p99 * 1_000:.0f} ms,"
        f" worst {delays[-1] * 1_000:.0f} ms"
    )


def _delays(written: Written, seen: list[tuple[float, int]]) -> Iterator[float]:
    """Yield for each trace the seconds from its arrival until a query returned it."""
    answers = iter(seen)
    moment, number = next(answers)
    for own, arrived in enumerate(written.arrived, 1):
        while number < own:
            moment, number = next(answers)
        yield moment - arrived


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
