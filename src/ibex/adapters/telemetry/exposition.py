"""Prometheus' text format for the metrics of one or several processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client import Metric


class Merge(Enum):
    """The way to merge the values of several processes. ``EACH`` keeps one series for each, labelled ``worker``."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    EACH = "each"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric. ``kind`` is Prometheus' metric type.

    Exported values are the stored integers divided by ``divisor``, which yields the unit in the name. ``bounds`` are
    the upper bounds of a histogram's buckets, before the division.
    """

    name: str
    documentation: str
    kind: str
    labels: tuple[str, ...] = ()
    divisor: int = 1
    bounds: tuple[int, ...] = ()
    merge: Merge = Merge.SUM

    @property
    def size(self) -> int:
        """The number of slots of one series."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


@dataclass(slots=True)
class Merged:
    """A metric, merged from the series of all processes."""

    family: Family
    series: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def add(self, labels: tuple[str, ...], numbers: Sequence[int], worker: str) -> None:
        """Merge in a series of one process."""
        if self.family.merge is Merge.EACH:
            labels = (*labels, worker)
        known = self.series.get(labels)
        if known is None:
            self.series[labels] = list(numbers)
        elif self.family.merge is Merge.MAX:
            known[0] = max(known[0], numbers[0])
        elif self.family.merge is Merge.MIN:
            known[0] = min(known[0], numbers[0])
        else:
            known[:] = map(int.__add__, known, numbers)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format."""
        family = self.family
        yield from _head(family.name, family.documentation, family.kind)
        names = (*family.labels, "worker") if family.merge is Merge.EACH else family.labels
        for values, numbers in self.series.items():
            pairs = sorted(zip(names, values, strict=True))
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
            if family.kind == "histogram":
                yield from _histogram(family, labels, numbers)
            else:
                yield f"{family.name}{{{labels}}} {numbers[0] / family.divisor!r}\n".replace("{}", "")


def process_lines(processes: Iterable[tuple[str, Iterable[Metric]]]) -> Iterator[str]:
    """Yield the lines of the operating system's metrics of each process, with its number as the label ``worker``."""
    merged: dict[str, list[str]] = {}
    for worker, metrics in processes:
        for metric in metrics:
            for sample in metric.samples:
                kind = "counter" if metric.type == "counter" else "gauge"
                lines = merged.setdefault(sample.name, list(_head(sample.name, metric.documentation, kind)))
                lines.append(f'{sample.name}{{worker="{worker}"}} {sample.value!r}\n')
    for lines in merged.values():
        yield from lines


def _head(name: str, documentation: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {documentation}\n", f"# TYPE {name} {kind}\n"


def _histogram(family: Family, labels: str, numbers: Sequence[int]) -> Iterator[str]:
    """Yield cumulative buckets, the count and the sum. The first number is the sum, the others are the buckets."""
    before = f"{labels}," if labels else ""
    total = 0
    for bound, number in zip(family.bounds, numbers[1:-1], strict=True):
        total += number
        yield f'{family.name}_bucket{{{before}le="{bound / family.divisor!r}"}} {total}.0\n'
    total += numbers[-1]
    yield f'{family.name}_bucket{{{before}le="+Inf"}} {total}.0\n'
    own = f"{{{labels}}}" if labels else ""
    yield f"{family.name}_count{own} {total}.0\n"
    yield f"{family.name}_sum{own} {numbers[0] / family.divisor!r}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
