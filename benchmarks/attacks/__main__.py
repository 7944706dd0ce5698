"""``make bench-attacks``: two organizations and attackers, before and during each attack; see docs/performance.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.attacks.catalogue import BY_NAME
from benchmarks.attacks.options import listing, read_options

import ibex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.attacks.options import Options


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit code: 0 if every attack was withstood."""
    options = read_options(arguments)
    if options.list:
        sys.stdout.write(listing())
        return 0
    if not Path(str(ibex.__file__)).is_relative_to(options.source / "src"):
        _run_with(options.source, arguments)
    return _measure_all(options)


def _run_with(source: Path, arguments: Sequence[str]) -> None:
    """Replace this process by the same program with the IBEX and the harness of another checkout."""
    paths = os.pathsep.join((str(source / "src"), str(source / "tests")))
    if os.environ.get("PYTHONPATH") == paths:
        sys.exit(f"bench-attacks: {source} has no src/ibex that can be imported")
    command = [sys.executable, "-m", "benchmarks.attacks", *arguments]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": paths})  # noqa: S606 - this very program


def _measure_all(options: Options) -> int:
    # Imported here: it imports the harness, which belongs to the measured checkout.
    from benchmarks.attacks.laboratory import laboratory  # noqa: PLC0415
    from benchmarks.attacks.measuring import measure  # noqa: PLC0415

    about, results = _about(options), list[dict[str, Any]]()
    _say("starting everything")
    with laboratory(options) as everything:
        for name in options.only:
            began = time.monotonic()
            try:
                result = measure(everything, BY_NAME[name])
            except Exception as error:  # noqa: BLE001 - it is told, and does not end the others
                result = {"name": name, "error": f"{type(error).__name__}: {str(error).splitlines()[-1:]}"}
            results.append(result)
            _say(f"{name}: {_in_short(result)} ({time.monotonic() - began:.0f} s)")
            _write(options, about, results)
    return 0 if all(result.get("withstood") for result in results) else 1


def _write(options: Options, about: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Write what has been measured so far; the tables go to stdout with the last attack."""
    from benchmarks.attacks.report import tables  # noqa: PLC0415 - as above

    if options.json is not None:
        options.json.write_text(json.dumps({"about": about, "attacks": results}, indent=1) + "\n")
    told = tables(about, results)
    if options.markdown is not None:
        options.markdown.write_text(told)
    if len(results) == len(options.only):
        sys.stdout.write(told)


def _in_short(result: dict[str, Any]) -> str:
    if "error" in result:
        return str(result["error"])
    before, during = result["victim"]["before"], result["victim"]["during"]
    failed = f"{during['failed']} of {during['requests']} failed"
    return f"p99 {before['p99_ms']} → {during['p99_ms']} ms, {failed}"


def _about(options: Options) -> dict[str, Any]:
    asked = ["git", "-C", str(options.source), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit[:7],
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "seconds": options.seconds,
        "before": options.before,
        "rate": options.rate,
        "auth_timeout": options.auth_timeout,
        "nice": options.nice,
    }


def _say(what: str) -> None:
    sys.stderr.write(f"bench-attacks: {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
