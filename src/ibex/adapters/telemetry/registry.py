"""The metrics of a process: where they are declared, and shown together with those of its siblings."""

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
    """Declares metrics, each once, all of them under one prefix. Labels are route templates and enumerations."""

    def __init__(self, prefix: str, regions: Sequence[SharedMemorySegment] = (), own: int = 0) -> None:
        """Take the regions of all processes of the service, and which of them is this one's; none for a single one."""
        self._prefix = prefix
        self._regions = tuple(regions) or (SharedMemorySegment.private(),)
        self._own = self._regions[own]
        self._own.attach()
        self._families: dict[str, Family] = {}
        self._refreshes: list[Callable[[], None]] = []
        self._up = self._declare(
            Family(
                prefix + "worker_up",
                "Whether the worker is alive; 0 until its place is filled again.",
                "gauge",
                merge=Merge.EACH,
            )
        )
        self._silent = self._declare(
            Family(
                prefix + "event_loop_silent_seconds",
                "How long ago the worker's event loop was last seen to turn.",
                "gauge",
                divisor=_NS,
                merge=Merge.EACH,
            )
        )
        self._asked_pid = 0
        self._system = ProcessCollector(pid=lambda: self._asked_pid, registry=None)

    @property
    def families(self) -> Mapping[str, Family]:
        """What is declared, by name."""
        return self._families

    def counters(self, name: str, meaning: str, *labels: str) -> Labelled[Counter]:
        """Declare a counter with labels; its name ends in ``_total``."""
        family = self._declare(Family(self._prefix + name, meaning, "counter", labels))
        return Labelled(lambda values: Counter(self._slots(family, values)))

    def counter(self, name: str, meaning: str) -> Counter:
        """Declare a counter without labels, which is there from the beginning."""
        return self.counters(name, meaning).of()

    def gauges(
        self, name: str, meaning: str, *labels: str, merge: Merge = Merge.SUM, divisor: int = 1
    ) -> Labelled[Gauge]:
        """Declare a gauge with labels; what is set is shown divided by ``divisor``."""
        family = self._declare(Family(self._prefix + name, meaning, "gauge", labels, divisor, merge=merge))
        return Labelled(lambda values: Gauge(self._slots(family, values)))

    def histograms(
        self, name: str, meaning: str, bounds_s: Sequence[float], *labels: str, merge: Merge = Merge.SUM
    ) -> Labelled[Histogram]:
        """Declare a histogram of durations with labels. Bounds are in seconds."""
        bounds = tuple(round(bound * _NS) for bound in bounds_s)
        family = self._declare(Family(self._prefix + name, meaning, "histogram", labels, _NS, bounds, merge))
        return Labelled(lambda values: Histogram(self._slots(family, values), bounds))

    def histogram(self, name: str, meaning: str, bounds_s: Sequence[float]) -> Histogram:
        """Declare a histogram without labels, which is there from the beginning."""
        return self.histograms(name, meaning, bounds_s).of()

    def refreshed_by(self, refresh: Callable[[], None]) -> None:
        """Have a function called before this process's metrics are read, and often: it brings gauges up to date."""
        self._refreshes.append(refresh)

    def turned(self) -> None:
        """Note a heartbeat of the event loop, and update the gauges that other processes read."""
        self._own.heartbeat_ns = time.monotonic_ns()
        for refresh in self._refreshes:
            refresh()

    def render(self) -> tuple[bytes, str]:
        """Return the metrics of all processes in Prometheus' text format, and its content type."""
        self.turned()
        merged = {name: Merged(family) for name, family in self._families.items()}
        living = [region for region in self._regions if _lives(region.pid)]
        now_ns = time.monotonic_ns()
        for number, region in enumerate(self._regions):
            lives = region in living
            merged[self._up.name].add((), [lives], str(number))
            if lives and region.heartbeat_ns:
                merged[self._silent.name].add((), [now_ns - region.heartbeat_ns], str(number))
            self._take_in(merged, region, str(number), lives=lives)
        lines = [line for family in merged.values() for line in family.lines()]
        lines += process_lines((str(self._regions.index(region)), self._said_of(region.pid)) for region in living)
        return "".join(lines).encode(), CONTENT_TYPE_LATEST

    def _said_of(self, pid: int) -> Iterable[Metric]:
        self._asked_pid = pid
        return self._system.collect()

    def _take_in(self, merged: Mapping[str, Merged], region: SharedMemorySegment, worker: str, *, lives: bool) -> None:
        for series in region.series():
            into = merged.get(series.name)
            if into is None or into.family.size != series.size:
                continue  # of another version of this program, which had the region before
            if lives or into.family.kind != "gauge":
                into.add(series.labels, region.numbers(series), worker)

    def _declare(self, family: Family) -> Family:
        if family.name in self._families:
            raise ValueError(f"{family.name} is declared already")
        self._families[family.name] = family
        return family

    def _slots(self, family: Family, labels: tuple[str, ...]) -> memoryview[int]:
        if len(labels) != len(family.labels):
            raise ValueError(f"{family.name} has the labels {family.labels}")
        return self._own.slots_of(family.name, labels, family.size)


def _lives(pid: int) -> bool:
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
