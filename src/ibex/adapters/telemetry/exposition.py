"""Metrics of one or several processes as one text, in Prometheus' format."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client import Metric


class Merge(Enum):
    """What several processes' numbers make together: their sum, the greatest, the least, or one each, by ``worker``."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    EACH = "each"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: ``kind`` as Prometheus has it, ``divisor`` of what is counted to the unit in the name.

    ``bounds`` are a histogram's, in what is counted.
    """

    name: str
    meaning: str
    kind: str
    labels: tuple[str, ...] = ()
    divisor: int = 1
    bounds: tuple[int, ...] = ()
    merge: Merge = Merge.SUM

    @property
    def size(self) -> int:
        """How many numbers a series of it has."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


@dataclass(slots=True)
class Merged:
    """The series of one metric, taken together."""

    family: Family
    series: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def add(self, labels: tuple[str, ...], numbers: Sequence[int], worker: str) -> None:
        """Take in the series of one process."""
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
        """Give the text, line by line."""
        family = self.family
        yield from _head(family.name, family.meaning, family.kind)
        names = (*family.labels, "worker") if family.merge is Merge.EACH else family.labels
        for values, numbers in self.series.items():
            pairs = sorted(zip(names, values, strict=True))
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
            if family.kind == "histogram":
                yield from _histogram(family, labels, numbers)
            else:
                yield f"{family.name}{{{labels}}} {numbers[0] / family.divisor!r}\n".replace("{}", "")


def process_lines(processes: Iterable[tuple[str, Iterable[Metric]]]) -> Iterator[str]:
    """Give the text of what the operating system says of each process, which has its number as a label."""
    merged: dict[str, list[str]] = {}
    for worker, metrics in processes:
        for metric in metrics:
            for sample in metric.samples:
                kind = "counter" if metric.type == "counter" else "gauge"
                lines = merged.setdefault(sample.name, list(_head(sample.name, metric.documentation, kind)))
                lines.append(f'{sample.name}{{worker="{worker}"}} {sample.value!r}\n')
    for lines in merged.values():
        yield from lines


def _head(name: str, meaning: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}\n", f"# TYPE {name} {kind}\n"


def _histogram(family: Family, labels: str, numbers: Sequence[int]) -> Iterator[str]:
    """Give a bucket for each bound, each with what is in the ones before; the first number is the sum."""
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
