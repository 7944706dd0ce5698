"""`make exit-gate`: the figures that must hold, with their limits (docs/performance.md). The exit code is the result.

Starts the production wiring on loopback (two workers, auth, PostgreSQL, Redis, a ClickHouse engine, a provider at a
model's pace), measures, and writes benchmarks/results/exit-gate.json. ``--only smoke matrix`` selects sections.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.gate import chat, programs, record, revocation
from benchmarks.gate.scene import scene
from benchmarks.gate.verdict import broken, exit_code, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.gate.scene import Scene
    from benchmarks.gate.verdict import Line

RESULTS: Final = Path(__file__).parent / "results" / "exit-gate.json"
# The load comes first: it needs fresh servers, and requests before it would not be counted as received.
LIVE: Final[Mapping[str, Callable[[Scene], list[Line]]]] = {
    "overhead": chat.overhead,
    "sdk": chat.by_the_sdk,
    "stream": chat.first_streamed_byte,
    "traces": record.traces_in_time,
    "directive": chat.directive_first,
    "record": record.all_on_record,
    "revocation": revocation.revocations,  # last, because it empties the servers and starts its own proxies
}
BY_PROGRAMS: Final[Mapping[str, Callable[[], list[Line]]]] = {
    "matrix": programs.security_matrix,
    "smoke": programs.e2e_smoke,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*LIVE, *BY_PROGRAMS], default=[*LIVE, *BY_PROGRAMS])
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    options = parser.parse_args(arguments)
    about, began = _about(), time.monotonic()
    lines = measure(options.only)
    took = time.monotonic() - began
    code = exit_code(lines)
    told = {**about, "seconds": round(took, 1), "passed": code == 0, "lines": [asdict(line) for line in lines]}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(told, indent=1) + "\n")
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    machine = f"{about['cores']} cores, load {about['load_before']} before it began"
    sys.stdout.write(f"{table_of(lines, colour=colour)} in {took:.0f} s on {machine}\n")
    return code


def measure(only: Sequence[str]) -> list[Line]:
    """Return the lines of these sections, some of which judge the requests of others.

    A section that raises yields a line that does not pass; the others still run.
    """
    lines: list[Line] = []
    live = [name for name in LIVE if name in only]
    if live:
        _say("starting everything")
        try:
            with scene() as everything:
                for name in live:
                    lines += _section(name, partial(LIVE[name], everything))
        except Exception as error:  # noqa: BLE001 - it is told, and does not pass
            lines.append(broken("starting and stopping everything", error))
    for name in BY_PROGRAMS:
        if name in only:
            lines += _section(name, BY_PROGRAMS[name])
    return lines


def _section(name: str, run: Callable[[], list[Line]]) -> list[Line]:
    _say(name)
    try:
        return run()
    except Exception as error:  # noqa: BLE001 - it is told, and does not pass
        return [broken(name, error)]


def _about() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _say(what: str) -> None:
    sys.stderr.write(f"exit-gate: {what} ...\n")


if __name__ == "__main__":
    sys.exit(main())
