"""The evaluation of the victim's requests: counts, percentiles, and whether an attack was withstood."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.attacks.victim import Sample

MOST_TIMES_SLOWER: Final = 2.0
OK: Final = "ok"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by nearest rank; NaN if there are no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return a summary of requests, in total and by kind. Times are of all that were answered or given up."""
    kinds = {sample.kind for sample in samples}
    of_kinds = {kind: _figures([sample for sample in samples if sample.kind == kind]) for kind in sorted(kinds)}
    return {**_figures(samples), "kinds": of_kinds}


def _figures(samples: Sequence[Sample]) -> dict[str, Any]:
    ms = [sample.ms for sample in samples]
    failures = Counter(sample.outcome for sample in samples if sample.outcome != OK)
    return {
        "requests": len(samples),
        "failed": failures.total(),
        "failures": dict(failures),
        "p50_ms": round(percentile(ms, 50), 2) if ms else None,
        "p99_ms": round(percentile(ms, 99), 2) if ms else None,
    }


def withstood(before: Mapping[str, Any], during: Mapping[str, Any]) -> bool:
    """Tell whether no request failed during the attack and its p99 is at most twice that before.

    Without a request the result is false.
    """
    if not before["requests"] or not during["requests"] or during["failed"]:
        return False
    return bool(during["p99_ms"] <= MOST_TIMES_SLOWER * before["p99_ms"])
