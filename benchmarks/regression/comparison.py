"""Compare the cost of a request in two trees: pairs of measurements, the median of their ratios, and a limit."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT: Final = 1.10
_HEAD: Final = ("", "per request", "baseline", "this tree", "ratio", "lowest", "highest", "limit")
_COLUMNS_OF_TEXT: Final = 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both trees, for each pair: ``baseline[n]`` and ``tree[n]`` are the n-th pair.

    ``limit`` is the greatest ratio that passes; None for a figure that is shown but not judged.
    """

    what: str
    unit: str
    baseline: tuple[float, ...]
    tree: tuple[float, ...]
    limit: float | None = LIMIT

    @property
    def ratios(self) -> list[float]:
        """The ratio of this tree to the baseline, pair by pair; NaN if the baseline is zero."""
        pairs = zip(self.baseline, self.tree, strict=True)
        return [tree / baseline if baseline > 0 else math.nan for baseline, tree in pairs]

    @property
    def ratio(self) -> float:
        """The median of the ratios; NaN if any ratio is NaN, or if there are none."""
        ratios = self.ratios
        return math.nan if not ratios or any(map(math.isnan, ratios)) else statistics.median(ratios)

    @property
    def passed(self) -> bool:
        """Whether the ratio is within the limit. A figure that is not judged passes; NaN does not."""
        return self.limit is None or self.ratio <= self.limit

    def __str__(self) -> str:
        tree, baseline = (_figure(statistics.median(values)) for values in (self.tree, self.baseline))
        limit = "not judged" if self.limit is None else f"the limit is {self.limit:.2f}"
        return f"{self.what}: {self.ratio:.3f} times the baseline ({tree} {self.unit} instead of {baseline}), {limit}"


def baseline_first(pair: int) -> bool:
    """Tell whether the baseline is the first of a pair, by the pair's number: in every second pair."""
    return pair % 2 == 0


def exit_code(comparisons: Sequence[Comparison]) -> int:
    """Return 0 if at least one figure was judged and all judged ones passed, else 1."""
    judged = [one for one in comparisons if one.limit is not None]
    return 0 if judged and all(one.passed for one in judged) else 1


def table_of(comparisons: Sequence[Comparison]) -> str:
    """Return an aligned table, with the medians of both trees and the median, lowest and highest ratio."""
    rows = [_HEAD, *(_row(one) for one in comparisons)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < _COLUMNS_OF_TEXT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def summary_of(comparisons: Sequence[Comparison]) -> str:
    """Return the gate's result: each figure above its limit, or that there is none."""
    failed = [one for one in comparisons if not one.passed]
    if failed:
        return "\n".join(f"bench-gate: FAILED: {one}" for one in failed)
    return "bench-gate: passed" if exit_code(comparisons) == 0 else "bench-gate: FAILED: nothing was measured"


def _row(one: Comparison) -> tuple[str, ...]:
    judged = "" if one.limit is None else "pass" if one.passed else "FAIL"
    return (
        judged,
        f"{one.what}, {one.unit}",
        _figure(statistics.median(one.baseline)),
        _figure(statistics.median(one.tree)),
        f"{one.ratio:.3f}",
        f"{min(one.ratios):.3f}",
        f"{max(one.ratios):.3f}",
        "not judged" if one.limit is None else f"{one.limit:.2f}",
    )


def _figure(value: float) -> str:
    """Return a figure with three significant digits, or as an integer from 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits
