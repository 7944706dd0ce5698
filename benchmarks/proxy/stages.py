"""Beside the goals: stages in process, by ``benchmarks.stages`` (``make bench-stages``), from pytest-benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.turns import say

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "stages.json"
NOT_RUN: Final = "make bench-stages has not been run"
TARGETS_US: Final = {
    "authenticate": 15.0,
    "directive": 10.0,
    "inject": 40.0,
    "sse": 6.0,
    "access_line": 10.0,
    "metrics": 8.0,
}
"""Microseconds, by a word that the benchmark's name has."""


def measure_stages(results: Path, *, quick: bool) -> dict[str, Any] | None:
    """Measure the stages, or in a quick run read the last results; return the same as ``read_stages``."""
    if not quick:
        subprocess.run([sys.executable, "-m", "benchmarks.stages"], check=True, stdout=subprocess.DEVNULL)
    stages = read_stages(results)
    say("stages: " + (f"of {stages['at']}, commit {stages['commit'][:12]}" if stages else NOT_RUN))
    return stages


def read_stages(results: Path) -> dict[str, Any] | None:
    """Return median and mean in microseconds by benchmark, and the commit; None if there are no results."""
    file = results / FILE
    if not file.exists():
        return None
    told = json.loads(file.read_text())
    stages = {
        one["name"]: {"median_us": one["stats"]["median"] * 1e6, "mean_us": one["stats"]["mean"] * 1e6}
        for one in told["benchmarks"]
    }
    return {"commit": told.get("commit_info", {}).get("id", ""), "at": told.get("datetime", ""), "stages": stages}


def target_us(name: str) -> float | None:
    """Return the target of a stage in microseconds, by its benchmark's name; None if it has none."""
    words = name.lower()
    return next((most for word, most in TARGETS_US.items() if word in words), None)


def spoken(name: str) -> str:
    """Return a benchmark's name in readable form."""
    return name.removeprefix("test_").replace("_", " ").replace("[", ": ").removesuffix("]")
