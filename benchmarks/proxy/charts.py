"""Charts of a run's measurements, which the report and the documentation share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.proxy import svg
from benchmarks.proxy.gateways import PEERS_IN_ORDER
from benchmarks.proxy.goals import median
from benchmarks.proxy.targets import ibex_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def singles(runs: Runs) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Return the runs of one worker of IBEX and of the peers, as far as they were measured."""
    return {name: runs[name] for name in (ibex_name(1), *PEERS_IN_ORDER) if name in runs}


def cost(runs: Runs) -> str:
    """Return a chart of the processor time of a request, the least first."""
    rows = [(name, median(found, "cpu_us"), f"{median(found, 'cpu_us'):,.0f} µs") for name, found in runs.items()]
    return svg.bars(sorted(rows, key=lambda row: row[1]))


def percentile_curves(runs: Runs, unit: str) -> str:
    """Return a chart of percentile curves, each percentile the median of the rounds."""
    series = {}
    for name, found in runs.items():
        shared = [percent for percent in found[0]["curve"] if all(percent in run["curve"] for run in found)]
        series[name] = [(float(percent), median([run["curve"] for run in found], percent)) for percent in shared]
    values = [value for points in series.values() for _, value in points]
    last = max([percent for points in series.values() for percent, _ in points] or [99.0])
    return svg.lines(series, svg.percentiles(last), svg.logarithmic(values, unit), height=340)
