"""The resources that an attack uses: descriptors, memory, processor time, metrics, and counters of the servers."""

from __future__ import annotations

import math
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.request import urlopen

import psycopg

from harness.cpu_time import memory_mb, used_s
from ibex.adapters.clickhouse.connection import disconnect

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from benchmarks.attacks.laboratory import Running

    from harness.stack import Stack

Metrics = dict[tuple[str, str], float]
_LINE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", re.MULTILINE)
_LE: Final = re.compile(r'le="([^"]+)"')
_IN_FLIGHT: Final = ("ibex_proxy_requests_in_flight", "ibex_proxy_requests_under_way")
_EVERY_S: Final = 0.5


def parse_metrics(text: str) -> Metrics:
    """Return the values of Prometheus' text format by name and labels."""
    return {(name, labels): float(value) for name, labels, value in _LINE.findall(text)}


def read_metrics(address: str) -> Metrics:
    """Return the metrics of a service; empty if it does not answer within two seconds."""
    with suppress(OSError, ValueError), urlopen(f"{address}/metrics", timeout=2) as answer:  # noqa: S310 - http
        return parse_metrics(answer.read().decode())
    return {}


def total(metrics: Metrics, name: str, labels: str = "") -> float | None:
    """Return the sum over all label sets that contain ``labels``; None where there is no such metric."""
    values = [value for (each, own), value in metrics.items() if each == name and labels in own]
    return sum(values) if values else None


def worst_bucket(before: Metrics, after: Metrics, histogram: str) -> float | None:
    """Return the upper bound of the highest bucket that has grown; None if none has."""
    counts: dict[float, float] = {}
    for (name, labels), value in after.items():
        bound = _LE.search(labels)
        if name == f"{histogram}_bucket" and bound is not None:
            at = float(bound[1])
            counts[at] = counts.get(at, 0.0) + value - before.get((name, labels), 0.0)
    bounds = sorted(counts)
    if not bounds or counts[bounds[-1]] <= 0:
        return None
    return next(at for at in bounds if counts[at] == counts[bounds[-1]])


@dataclass(slots=True)
class Peaks:
    """The maxima during an attack; ``descriptors`` is of one worker, ``memory_mb`` of all of them."""

    descriptors: int = 0
    auth_descriptors: int = 0
    memory_mb: float = 0.0
    in_flight: float = 0.0
    metrics_unanswered: int = 0


class Watch:
    """Samples the resources of workers and auth twice a second, in a thread, while a block runs."""

    def __init__(self, running: Running) -> None:
        self.peaks = Peaks()
        self._running = running
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(10)

    def _look(self) -> None:
        peaks, running = self.peaks, self._running
        while not self._stopped.wait(_EVERY_S):
            peaks.descriptors = max(peaks.descriptors, most_descriptors(running.workers))
            peaks.auth_descriptors = max(peaks.auth_descriptors, most_descriptors([running.auth]))
            peaks.memory_mb = max(peaks.memory_mb, memory_of(running.workers))
            metrics = read_metrics(running.address)
            peaks.metrics_unanswered += not metrics
            found = [value for name in _IN_FLIGHT if (value := total(metrics, name)) is not None]
            peaks.in_flight = max([peaks.in_flight, *found])


def most_descriptors(pids: list[int]) -> int:
    """Return the highest number of descriptors among the processes."""
    counts = [0]
    for pid in pids:
        with suppress(OSError):
            counts.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
    return max(counts)


def memory_of(pids: list[int]) -> float:
    """Return the memory of these processes in MB."""
    found = 0.0
    for pid in pids:
        with suppress(OSError, ValueError):
            found += memory_mb(pid)
    return found


@dataclass(slots=True)
class Counters:
    """Counters at a moment; None if a service did not report them."""

    at: float
    cpu_s: float
    auth_cpu_s: float
    grpc_calls: float | None
    redis_commands: float | None
    postgres_transactions: float | None
    journal_rows: float | None
    clickhouse_rows: float | None
    attacker_rows: float | None
    proxy: Metrics = field(default_factory=dict, repr=False)
    auth: Metrics = field(default_factory=dict, repr=False)


def count(running: Running) -> Counters:
    """Read the counters of every server."""
    proxy, auth = read_metrics(running.address), read_metrics(running.ops)
    rows, own = _traces(running.stack, running.tenant.id)
    return Counters(
        at=time.monotonic(),
        cpu_s=used_s(running.workers),
        auth_cpu_s=used_s([running.auth]),
        grpc_calls=total(auth, "ibex_auth_call_duration_seconds_count"),
        redis_commands=float(running.stack.redis.client().info("stats")["total_commands_processed"]),
        postgres_transactions=_transactions(running.stack),
        journal_rows=total(proxy, "ibex_proxy_sink_rows_total", 'sink="traces"'),
        clickhouse_rows=rows,
        attacker_rows=own,
        proxy=proxy,
        auth=auth,
    )


def _transactions(stack: Stack) -> float:
    with psycopg.connect(stack.postgres.superuser_url) as connection:
        row = connection.execute("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database").fetchone()
    return float(row[0]) if row else math.nan


def _traces(stack: Stack, org: str) -> tuple[float, float]:
    client = stack.clickhouse.client()
    try:
        query = "SELECT count(), countIf(org_id = {org:UUID}) FROM {name:Identifier}.llm_traces"
        (row,) = client.query(query, parameters={"name": stack.clickhouse.name, "org": org}).result_rows
    finally:
        disconnect(client)
    return float(row[0]), float(row[1])


_RATES: Final = (
    "grpc_calls", "redis_commands", "postgres_transactions", "journal_rows", "clickhouse_rows", "attacker_rows",
)  # fmt: skip


def rates(before: Counters, after: Counters) -> dict[str, float | None]:
    """Return the counts per second, and processor time in cores, between two moments."""
    seconds = after.at - before.at
    found: dict[str, float | None] = {}
    for name in _RATES:
        first, last = getattr(before, name), getattr(after, name)
        found[name] = None if last is None else round((last - (first or 0.0)) / seconds, 1)
    found["workers_cores"] = round((after.cpu_s - before.cpu_s) / seconds, 2)
    found["auth_cores"] = round((after.auth_cpu_s - before.auth_cpu_s) / seconds, 2)
    return found


def loop_lag(before: Counters, after: Counters) -> Mapping[str, Any]:
    """Return the highest bucket of the event loop's lag that was reached, in seconds: of the proxy and of auth."""
    return {
        "proxy_s": worst_bucket(before.proxy, after.proxy, "ibex_proxy_event_loop_lag_seconds"),
        "auth_s": worst_bucket(before.auth, after.auth, "ibex_auth_event_loop_lag_seconds"),
    }
