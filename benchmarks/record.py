"""`make bench-record`: the cost of the journal, and the delay of the record, on loopback.

One worker, with all parts on. The journal on disk, one in memory in its place (``proxy_without_journal``), and one that
flushes every commit take turns under the same closed loop of wrk. Then the delay of rows until both databases have them
is measured, under load at a model's pace. Only figures of the same run are comparable.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import httpx
import psycopg
from benchmarks.record_organizations import measure_organizations
from benchmarks.record_traces import measure_sinks

from harness.process import IbexProcess
from harness.servers import fast_provider
from harness.stack import stack_without_proxy
from harness.wrk import Measured, require_wrk, run_wrk
from ibex.adapters.clickhouse.connection import disconnect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.stack import Stack

SINKS: Final = ("checkpoints", "traces")
ON_DISK, IN_MEMORY, FULL_SYNC = "on disk", "in memory", "on disk, full sync"
WAYS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    ON_DISK: ("ibex.entrypoints.cli", {}),
    IN_MEMORY: ("benchmarks.proxy_without_journal", {}),
    FULL_SYNC: ("ibex.entrypoints.cli", {"IBEX_JOURNAL_SYNC": "full"}),
}
ROOT: Final = Path(__file__).parents[1]
START_S: Final = 60
DRAIN_S: Final = 300.0
POLL_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Options:
    """The extent of the measurements."""

    rounds: int
    seconds: float
    connections: int
    probes: int
    organizations: list[int]
    writers: int
    sinks: int
    rate: float


@dataclass(frozen=True, slots=True)
class Delivered:
    """The deliveries to a sink during a run, by the proxy's own counters.

    ``busy_s`` is the time spent on deliveries, ``behind`` the number of rows that waited when the load ended.
    """

    rows: float
    batches: float
    busy_s: float
    behind: float
    drained_s: float
    load_s: float

    def __str__(self) -> str:
        if not self.batches:
            return "nothing"
        return (
            f"{self.rows:9,.0f} rows in {self.batches:5.0f} batches, {self.rows / self.batches:5.0f} a batch;"
            f" {self.rows / self.busy_s:7,.0f} rows/s while at it,"
            f" {(self.rows - self.behind) / self.load_s:7,.0f} rows/s under load;"
            f" {self.behind:7,.0f} behind at its end, {self.drained_s:5.1f} s to catch up"
        )


def main() -> None:
    """Measure and print."""
    options = _options()
    if options.organizations:
        measure_organizations(options.organizations, options.writers, options.rate, options.seconds)
        return
    if options.sinks:
        measure_sinks(options.sinks, options.rate, options.seconds)
        return
    require_wrk()
    with fast_provider() as upstream, stack_without_proxy(upstream) as stack:
        runs: dict[str, list[Measured]] = {way: [] for way in WAYS}
        sinks: dict[str, list[Delivered]] = {sink: [] for sink in SINKS}
        for number in range(options.rounds):
            for way in list(WAYS)[number % 3 :] + list(WAYS)[: number % 3]:
                _say(f"round {number + 1}: {way}")
                with _proxy(stack, way) as address:
                    _load(stack, address, options, options.seconds / 4)
                    _drained(address)
                    measured, delivered = _measured(stack, address, options)
                runs[way].append(measured)
                if way == ON_DISK:
                    for sink in SINKS:
                        sinks[sink].append(delivered[sink])
        with _proxy(stack, ON_DISK) as address:
            delays = _delays(stack, address, options)
    _report(runs, sinks, delays)


def _options() -> Options:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="look whether it works, not how fast")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--organizations", type=int, nargs="+", help="measure the session store alone, with so many")
    parser.add_argument("--writers", type=int, default=1, help="workers that append, with --organizations")
    parser.add_argument("--sinks", type=int, default=0, help="measure ClickHouse alone, with so many processes")
    parser.add_argument("--rate", type=float, default=2_000, help="turns or traces a second, with one of these")
    chosen = parser.parse_args()
    rounds, seconds, probes = (1, 4.0, 10) if chosen.quick else (3, 20.0, 100)
    return Options(
        rounds=chosen.rounds or rounds,
        seconds=chosen.seconds or seconds,
        connections=chosen.connections,
        probes=probes,
        organizations=chosen.organizations or [],
        writers=chosen.writers,
        sinks=chosen.sinks,
        rate=chosen.rate,
    )


@contextmanager
def _proxy(stack: Stack, way: str) -> Iterator[str]:
    """Run a proxy of one process with this kind of journal; yield its address."""
    module, environ = WAYS[way]
    production = stack.production
    everything = {**production.environ, **environ, "PYTHONPATH": str(ROOT), "IBEX_LOG_LEVEL": "warning"}
    everything["IBEX_JOURNAL_DIR"] = str(production.folder / f"journal-{uuid4()}")
    everything["IBEX_PORT"] = str(_free_port())
    process = IbexProcess.spawn(["serve"], everything, production.folder, module=module)
    production.processes.append(process)
    address = f"http://127.0.0.1:{everything['IBEX_PORT']}"
    deadline = time.monotonic() + START_S
    while not _answers(address):
        if time.monotonic() > deadline or process.process.poll() is not None:
            raise RuntimeError("\n".join(process.lines))
        time.sleep(0.05)
    yield address
    production.processes.remove(process)
    process.stop(15)


def _free_port() -> int:
    import socket  # noqa: PLC0415 - here alone

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _load(stack: Stack, address: str, options: Options, seconds: float, model: str = "gpt-instant") -> Measured:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "What is an ibex? " * 10}]})
    headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
    return run_wrk(
        f"{address}/v1/chat/completions", body, headers, connections=options.connections, seconds=max(1, round(seconds))
    )


def _measured(stack: Stack, address: str, options: Options) -> tuple[Measured, dict[str, Delivered]]:
    before, began = _counters(address), time.monotonic()
    measured = _load(stack, address, options, options.seconds)
    ended, behind = time.monotonic(), _counters(address)
    drained = _drained(address)
    after = _counters(address)
    delivered = {
        sink: Delivered(
            rows=after["rows", sink] - before["rows", sink],
            batches=after["batches", sink] - before["batches", sink],
            busy_s=after["busy", sink] - before["busy", sink],
            behind=behind["depth", sink],
            drained_s=drained[sink] - ended,
            load_s=ended - began,
        )
        for sink in SINKS
    }
    return measured, delivered


_COUNTERS: Final = {
    "rows": "ibex_proxy_sink_rows_total",
    "batches": "ibex_proxy_sink_batch_duration_seconds_count",
    "busy": "ibex_proxy_sink_batch_duration_seconds_sum",
    "depth": "ibex_proxy_journal_depth_exchanges",
}


def _counters(address: str) -> dict[tuple[str, str], float]:
    """Return the values of the proxy's counters, by name and sink."""
    lines = httpx.get(f"{address}/metrics", trust_env=False, timeout=30).text.splitlines()
    found = dict.fromkeys([(name, sink) for name in _COUNTERS for sink in SINKS], 0.0)
    for name, metric in _COUNTERS.items():
        for sink in SINKS:
            wanted = f'{metric}{{sink="{sink}"}} '
            found[name, sink] = sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))
    return found


def _drained(address: str) -> dict[str, float]:
    """Wait until no exchange waits; return the time at which each sink had none."""
    deadline = time.monotonic() + DRAIN_S
    when: dict[str, float] = {}
    while len(when) < len(SINKS):
        counters = _counters(address)
        for sink in SINKS:
            if counters["depth", sink] == 0:
                when.setdefault(sink, time.monotonic())
        if time.monotonic() > deadline:
            raise RuntimeError(f"the sinks did not catch up within {DRAIN_S:g} s")
        time.sleep(POLL_S)
    return when


def _delays(stack: Stack, address: str, options: Options) -> dict[str, list[float]]:
    """Return in milliseconds how long after their responses rows became visible, under load at a model's pace."""
    delays: dict[str, list[float]] = {sink: [] for sink in SINKS}
    seconds = 3 + options.probes * 0.75
    load = threading.Thread(target=_load, args=(stack, address, options, seconds, "gpt-paced"))
    load.start()
    time.sleep(1)
    clickhouse = stack.clickhouse.client()
    body = {"model": "gpt-instant", "messages": [{"role": "user", "content": "Hi"}]}
    bearer = {"Authorization": f"Bearer {stack.token}"}

    def trace_of(request_id: UUID) -> bool:
        query = "SELECT 1 FROM ibex.llm_traces WHERE request_id = {id:UUID} AND requested_at > now() - 60"
        return bool(clickhouse.query(query, parameters={"id": request_id}).result_rows)

    with (
        psycopg.connect(stack.postgres.superuser_url, autocommit=True) as postgres,
        httpx.Client(base_url=address, headers=bearer, trust_env=False, timeout=30) as client,
    ):

        def checkpoint_of(request_id: UUID) -> bool:
            found = postgres.execute("SELECT 1 FROM checkpoints WHERE request_id = %s", [request_id])
            return found.fetchone() is not None

        for _ in range(options.probes):
            request_id = uuid4()
            client.post("/v1/chat/completions", json=body, headers={"X-Request-ID": str(request_id)}).raise_for_status()
            answered = time.monotonic()
            watching = [
                threading.Thread(target=_watch, args=(visible, request_id, answered, delays[sink]))
                for sink, visible in zip(SINKS, (checkpoint_of, trace_of), strict=True)
            ]
            for thread in watching:
                thread.start()
            for thread in watching:
                thread.join()
    disconnect(clickhouse)
    load.join()
    return delays


def _watch(visible: Callable[[UUID], bool], request_id: UUID, answered: float, delays: list[float]) -> None:
    while not visible(request_id):
        if time.monotonic() > answered + START_S:
            delays.append(math.inf)
            return
        time.sleep(POLL_S)
    delays.append((time.monotonic() - answered) * 1_000)


def _report(
    runs: Mapping[str, Sequence[Measured]],
    sinks: Mapping[str, Sequence[Delivered]],
    delays: Mapping[str, Sequence[float]],
) -> None:
    _say("\nwhat the journal costs: one worker, closed loop, an instant provider; medians of the rounds")
    base = statistics.median(run.rate for run in runs[IN_MEMORY])
    for way, measured in runs.items():
        rate = statistics.median(run.rate for run in measured)
        p50, p99 = (statistics.median(getattr(run, name) for run in measured) for name in ("p50_ms", "p99_ms"))
        _say(
            f"  {way:20} {rate:8,.0f} requests/s ({rate / base:4.0%})  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms"
            f"  failed {sum(run.failed for run in measured)}"
        )
    _say("\ninto the databases under that load, journal on disk")
    for sink, delivered in sinks.items():
        for one in delivered:
            _say(f"  {sink:12} {one}")
    _say("\nfrom a response to its visible row, 100 requests in flight at a model's pace")
    for sink, values in delays.items():
        ordered = sorted(values)
        p99 = ordered[min(len(ordered) - 1, math.ceil(len(ordered) * 0.99) - 1)]
        _say(f"  {sink:12} p50 {statistics.median(values):6.0f} ms  p99 {p99:6.0f} ms  of {len(values)}")


def _say(line: Any) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
