"""`make bench-gate`: fail if a request costs over 10% more than in a baseline, another commit that is checked out.

Exit codes: 0 if every figure is within its limit, 1 if one is not, 2 if the measurement failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.regression.comparison import exit_code, summary_of, table_of
from benchmarks.regression.counters import find_cpu_counter
from benchmarks.regression.measure import BASELINE, COUNTED, FULL, THIS, compare_calls, compare_cpu, running, with_share
from benchmarks.regression.trees import (
    TREE,
    UnknownCommitError,
    checked_out,
    describe,
    describe_tree,
    find_baseline,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.regression.comparison import Comparison

RESULTS: Final = Path(__file__).parent / "results" / "bench-gate.json"
NOT_MEASURED: Final = 2
_QUICK_SHARE: Final = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both trees, print the table, write the results, and return the exit code."""
    options = _read_options(arguments)
    began, load = time.monotonic(), os.getloadavg()[0]
    try:
        baseline = find_baseline(options.base)
        comparisons = _compare(baseline, quick=options.quick)
    except UnknownCommitError as error:
        sys.stderr.write(f"bench-gate: {error}\n")
        return NOT_MEASURED
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing was measured
        traceback.print_exc()
        sys.stderr.write(f"bench-gate: not measured: {error}\n")
        return NOT_MEASURED
    about = {
        "baseline": describe(baseline),
        "tree": describe_tree(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "seconds": round(time.monotonic() - began),
    }
    _tell(about, comparisons, options.json)
    return exit_code(comparisons)


def _compare(baseline: str, *, quick: bool) -> list[Comparison]:
    counter = find_cpu_counter()
    with checked_out(baseline) as tree, running({BASELINE: tree / "src", THIS: TREE / "src"}) as trees:
        counted, full = (with_share(plan, _QUICK_SHARE, 1) if quick else plan for plan in (COUNTED, FULL))
        calls = compare_calls(trees, counted)
        return [*compare_cpu(trees, full, counter), *calls]


def _tell(about: dict[str, Any], comparisons: Sequence[Comparison], results: Path) -> None:
    figures = [{**asdict(one), "ratio": one.ratio, "passed": one.passed} for one in comparisons]
    results.parent.mkdir(parents=True, exist_ok=True)
    passed = exit_code(comparisons) == 0
    results.write_text(json.dumps({**about, "passed": passed, "figures": figures}, indent=1) + "\n")
    sys.stdout.write(
        f"\nbaseline:  {about['baseline']}\nthis tree: {about['tree']}\n"
        f"Python {about['python']}, {about['cores']} cores, load {about['load_before']} before it began,"
        f" {about['seconds']} s\n\n"
        f"{table_of(comparisons)}\n\n{summary_of(comparisons)}\n"
    )


def _read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gate", description=__doc__)
    parser.add_argument("--base", help="the commit to compare with; where this branch left origin/main, or else HEAD~1")
    parser.add_argument("--quick", action="store_true", help="a little of everything: that it works, no figures")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that everything is stopped and removed
    sys.exit(main())
