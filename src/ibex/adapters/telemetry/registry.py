"""The metrics of a process, and their export together with those of the other workers."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector

from ibex.adapters.telemetry.exposition import Family, Merge, Merged, process_lines
from ibex.adapters.telemetry.instruments import Counter, Gauge, Histogram, Labelled
from ibex.adapters.telemetry.shared_memory import SharedMemorySegment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client import Metric

_NS: Final = 1_000_000_000


class Registry:
    """Declares metrics under one prefix, and renders those of all workers. Label values come from bounded sets."""

    def __init__(self, prefix: str, segments: Sequence[SharedMemorySegment] = (), own: int = 0) -> None:
        """Attach to the segment with the index ``own``. A process without other workers passes no segments."""
        self._prefix = prefix
        self._segments = tuple(segments) or (SharedMemorySegment.private(),)
        self._own = self._segments[own]
        self._own.attach()
        self._families: dict[str, Family] = {}
        self._refreshes: list[Callable[[], None]] = []
        self._up = self._declare(
            Family(
                prefix + "worker_up",
                "1 if the worker is alive, 0 until it is restarted.",
                "gauge",
                merge=Merge.EACH,
            )
        )
        self._silent = self._declare(
            Family(
                prefix + "event_loop_silent_seconds",
                "Time since the last heartbeat of the worker's event loop.",
                "gauge",
                divisor=_NS,
                merge=Merge.EACH,
            )
        )
        self._collected_pid = 0
        self._process_collector = ProcessCollector(pid=lambda: self._collected_pid, registry=None)

    @property
    def families(self) -> Mapping[str, Family]:
        """The declared metrics, by name."""
        return self._families

    def counters(self, name: str, documentation: str, *labels: str) -> Labelled[Counter]:
        """Declare a counter with labels; its name ends in ``_total``."""
        family = self._declare(Family(self._prefix + name, documentation, "counter", labels))
        return Labelled(lambda values: Counter(self._slots(family, values)))

    def counter(self, name: str, documentation: str) -> Counter:
        """Declare a counter without labels. It is exported from the start."""
        return self.counters(name, documentation).of()

    def gauges(
        self, name: str, documentation: str, *labels: str, merge: Merge = Merge.SUM, divisor: int = 1
    ) -> Labelled[Gauge]:
        """Declare a gauge with labels. Its values are exported divided by ``divisor``."""
        family = self._declare(Family(self._prefix + name, documentation, "gauge", labels, divisor, merge=merge))
        return Labelled(lambda values: Gauge(self._slots(family, values)))

    def histograms(
        self, name: str, documentation: str, bounds_s: Sequence[float], *labels: str, merge: Merge = Merge.SUM
    ) -> Labelled[Histogram]:
        """Declare a histogram of durations with labels. Bounds are in seconds."""
        bounds = tuple(round(bound * _NS) for bound in bounds_s)
        family = self._declare(Family(self._prefix + name, documentation, "histogram", labels, _NS, bounds, merge))
        return Labelled(lambda values: Histogram(self._slots(family, values), bounds))

    def histogram(self, name: str, documentation: str, bounds_s: Sequence[float]) -> Histogram:
        """Declare a histogram without labels. It is exported from the start."""
        return self.histograms(name, documentation, bounds_s).of()

    def on_refresh(self, refresh: Callable[[], None]) -> None:
        """Add a function that updates gauges. It is called at each heartbeat, and before this process is rendered."""
        self._refreshes.append(refresh)

    def heartbeat(self) -> None:
        """Record a heartbeat of the event loop, and update the gauges that other processes read."""
        self._own.heartbeat_ns = time.monotonic_ns()
        for refresh in self._refreshes:
            refresh()

    def render(self) -> tuple[bytes, str]:
        """Return the metrics of all processes in Prometheus' text format, and its content type."""
        self.heartbeat()
        merged = {name: Merged(family) for name, family in self._families.items()}
        alive = [segment for segment in self._segments if _is_alive(segment.pid)]
        now_ns = time.monotonic_ns()
        for number, segment in enumerate(self._segments):
            is_alive = segment in alive
            if segment.pid:  # else the segment is spare, for a worker that replaces another one
                merged[self._up.name].add((), [is_alive], str(number))
            if is_alive and segment.heartbeat_ns:
                merged[self._silent.name].add((), [now_ns - segment.heartbeat_ns], str(number))
            self._merge(merged, segment, str(number), is_alive=is_alive)
        lines = [line for family in merged.values() for line in family.lines()]
        lines += process_lines((str(self._segments.index(one)), self._process_metrics(one.pid)) for one in alive)
        return "".join(lines).encode(), CONTENT_TYPE_LATEST

    def _process_metrics(self, pid: int) -> Iterable[Metric]:
        self._collected_pid = pid
        return self._process_collector.collect()

    def _merge(
        self, merged: Mapping[str, Merged], segment: SharedMemorySegment, worker: str, *, is_alive: bool
    ) -> None:
        for series in segment.series():
            into = merged.get(series.name)
            if into is None or into.family.size != series.size:
                continue  # a worker of another version declared it
            if is_alive or into.family.kind != "gauge":
                into.add(series.labels, segment.numbers(series), worker)

    def _declare(self, family: Family) -> Family:
        if family.name in self._families:
            raise ValueError(f"metric {family.name} is already declared")
        self._families[family.name] = family
        return family

    def _slots(self, family: Family, labels: tuple[str, ...]) -> memoryview[int]:
        if len(labels) != len(family.labels):
            raise ValueError(f"metric {family.name} has the labels {family.labels}, not {len(labels)} values")
        return self._own.slots_of(family.name, labels, family.size)


def _is_alive(pid: int) -> bool:
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
