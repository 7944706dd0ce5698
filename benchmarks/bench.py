"""`make bench`: the performance figures beside nginx, Envoy, Ferro, Portkey and LiteLLM, in one run, on loopback.

Starts PostgreSQL, Redis, a ClickHouse engine, auth, a scripted provider, nginx and the peers that are installed (`make
bench-peers`), and restarts the proxy for each of its turns. Prints tables, and writes bench.json and report.html to
benchmarks/results.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.about import describe
from benchmarks.proxy.closed import measure_closed
from benchmarks.proxy.freshness import measure_freshness
from benchmarks.proxy.gateways import FLOORS
from benchmarks.proxy.generator import HAS_WRK
from benchmarks.proxy.goals import goals_of
from benchmarks.proxy.options import read_options
from benchmarks.proxy.organizations import measure_organizations
from benchmarks.proxy.paced import measure_paced
from benchmarks.proxy.profile import measure_profile
from benchmarks.proxy.report import write_report
from benchmarks.proxy.sizes import measure_idle, measure_sizes
from benchmarks.proxy.soak import measure_soak
from benchmarks.proxy.stages import measure_stages
from benchmarks.proxy.starts import measure_starts
from benchmarks.proxy.streaming import measure_memory, measure_streams
from benchmarks.proxy.switches import measure_switches
from benchmarks.proxy.tables import all_tables, show
from benchmarks.proxy.targets import scene
from benchmarks.proxy.turns import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene

RESULTS: Final = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print the tables, and write the results."""
    options = read_options()
    RESULTS.mkdir(exist_ok=True)
    if options.render:
        results = json.loads((RESULTS / "bench.json").read_text())
    else:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a worker with 1,000 streams has 2,000 connections
        say("starting everything")
        with scene(peers=options.peers, stream_seconds=options.stream_seconds) as everything:
            results = _measure(everything, options)
    results = json.loads(json.dumps(_plain(results)))  # as the report reads it
    results["goals"] = goals_of(results)
    (RESULTS / "bench.json").write_text(json.dumps(results, indent=1))
    report = write_report(RESULTS / "report.html", results)
    show(all_tables(results))
    say(f"the report: {report}")
    if results["failed"]:
        sys.exit(f"not measured: {'; '.join(results['failed'])}")


def _measure(everything: Scene, options: Options) -> dict[str, Any]:
    results: dict[str, Any] = {
        "about": describe(everything),
        "quick": options.quick,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": options.connections,
        "closed_loop_by": "wrk" if HAS_WRK else "this project's own generator: wrk is not installed",
        "missing": everything.missing,
        "settings": everything.settings,
        "failed": [],
    }
    say(f"everything runs, {everything.installation}; missing: {', '.join(everything.missing) or 'nothing'}")
    sections: dict[str, Callable[[], dict[str, Any] | None]] = {
        "stages": lambda: measure_stages(RESULTS, quick=options.quick),
        "closed": lambda: measure_closed(everything, options),
        "profile": lambda: measure_profile(everything, options),
        "paced": lambda: measure_paced(everything, options, _rates(results)),
        "switches": lambda: measure_switches(everything, options),
        "streams": lambda: measure_streams(everything, options),
        "sizes": lambda: measure_sizes(everything, options),
        "idle": lambda: measure_idle(everything, options),
        "memory": lambda: measure_memory(everything, options),
        "soak": lambda: measure_soak(everything, options),
        "freshness": lambda: measure_freshness(everything, options),
        "organizations": lambda: measure_organizations(everything, options),
        "starts": lambda: measure_starts(everything, options),
    }
    for name, measure in sections.items():
        if name not in options.only:
            continue
        try:
            results[name] = measure()
        except Exception as error:  # noqa: BLE001 - one that fails shall not cost the others; it is told, and is no success
            traceback.print_exc()
            results["failed"].append(f"{name}: {error!r}")
    return results


def _rates(results: dict[str, Any]) -> dict[str, float]:
    """Return the rates of the peers in a closed loop, in requests per second."""
    runs = results.get("closed", {}).get("runs", {})
    return {name: statistics.median(run["rate"] for run in each) for name, each in runs.items() if name not in FLOORS}


def _plain(value: Any) -> Any:
    """Return the value with None for NaN, which JSON cannot represent."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
