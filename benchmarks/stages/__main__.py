"""Run the suite, write its figures to stages.json and stages.md in benchmarks/results, and print them with limits.

Arguments go to pytest, as ``-k inject``. The exit code is pytest's: figures over a limit are reported, but do not fail.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import pytest
from benchmarks.stages.table import markdown_of, table_of

RESULTS: Final = Path(__file__).parents[1] / "results" / "stages.json"
# Rounds of at least 0.2 ms make the cost of the clock negligible, and an interruption spoils only one of many rounds.
_HOW: Final = ("--benchmark-min-time=0.0002", "--benchmark-max-time=0.5")


def main() -> int:
    """Measure and print the figures."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.unlink(missing_ok=True)
    quiet = ("-q", "-p", "no:cacheprovider", "--no-header", "--benchmark-enable", "--benchmark-quiet")
    output = f"--benchmark-json={RESULTS}"
    code = int(pytest.main([str(Path(__file__).parent), *quiet, *_HOW, output, *sys.argv[1:]]))
    if RESULTS.exists() and RESULTS.stat().st_size:
        told = json.loads(RESULTS.read_text())
        RESULTS.with_suffix(".md").write_text(markdown_of(told))
        sys.stdout.write(table_of(told) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
