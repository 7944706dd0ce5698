"""Goal 6, and the memory of goal 8: many concurrent streams, and the delay of each of their events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.generator import curve, percentile
from benchmarks.proxy.targets import DIRECT, EVENTS_A_SECOND, WORKERS, ibex_name
from benchmarks.proxy.turns import accounted, in_turns, say

from harness.cpu_time import memory_mb
from harness.servers import fast_provider_process
from harness.stream_load import run_streams

if TYPE_CHECKING:
    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene, Target

    from harness.stream_load import Delays

WORKERS_MEASURED: Final = 2
_SLOW: Final = ("--events", "40", "--events-a-second", "5", "--processes", "2")
_SLOW_STREAM_S: Final = 8.0
_WARM_UP_S: Final = 1.0


def measure_streams(scene: Scene, options: Options) -> dict[str, Any]:
    """Return runs by name of target: many streams for IBEX and the provider alone, few for all of the peers."""

    def many(name: str) -> dict[str, Any]:
        return _measure(scene, name, options.streams)

    def few(name: str) -> dict[str, Any]:
        return _measure(scene, name, options.streams_with_peers)

    return {
        "events_a_second": EVENTS_A_SECOND,
        "streams": options.streams,
        "runs": in_turns([DIRECT, ibex_name(WORKERS_MEASURED)], options.rounds, many),
        "streams_with_peers": options.streams_with_peers,
        "peers": in_turns([DIRECT, ibex_name(1), *scene.others], min(2, options.rounds), few),
    }


def _measure(scene: Scene, name: str, count: int) -> dict[str, Any]:
    with scene.target(name) as target:
        request = target.request("gpt-stream", stream=True)
        scene.generator.run(run_streams, target.base_url, request, min(20, count), most_s=_WARM_UP_S)
        scene.generator.settle(target)
        with accounted(target) as cpu:
            delays = scene.generator.run(run_streams, target.base_url, request, count)
            cpu["cpu_s"] = delays.cpu_s
    run = {"cpu": cpu, "streams": delays.streams, "whole": delays.whole, **_told(delays)}
    if name.startswith("IBEX"):
        run["cpu_us_an_event"] = cpu["groups"][WORKERS] / max(1, len(delays.later)) * 1e6
    say(
        f"{count} streams: {name}: events p50 {run['p50_ms']:.2f} ms, p99 {run['p99_ms']:.2f} ms late;"
        f" first p99 {run['first_p99_ms']:.2f} ms; {delays.whole} of {count} whole"
    )
    return run


def _told(delays: Delays) -> dict[str, Any]:
    later = [delay / 1e6 for delay in delays.later]
    first = [delay / 1e6 for delay in delays.first]
    return {
        "events": len(later) + len(first),
        "p50_ms": percentile(later, 50),
        "p99_ms": percentile(later, 99),
        "first_p50_ms": percentile(first, 50),
        "first_p99_ms": percentile(first, 99),
        "curve": curve(later),
        "first_curve": curve(first),
    }


def measure_memory(scene: Scene, options: Options) -> dict[str, Any]:
    """Return the memory of one worker in MB: at rest, with many active streams, and afterwards."""
    with fast_provider_process(*_SLOW) as (url, _), scene.ibex(1, OPENAI_BASE_URL=url) as ibex:
        (worker,) = ibex.workers
        scene.generator.settle(ibex)
        found = {"streams": options.open_streams, "at_rest_mb": memory_mb(worker)}
        open_mb, delays = _while_open(scene, ibex, worker, options.open_streams)
        found |= {"open_mb": open_mb, "whole": delays.whole, "after_mb": memory_mb(worker)}
    say(
        f"memory of a worker: {found['at_rest_mb']:.0f} MB at rest, {open_mb:.0f} MB with {options.open_streams}"
        f" streams open, {found['after_mb']:.0f} MB after; {delays.whole} whole"
    )
    return found


def _while_open(scene: Scene, ibex: Target, worker: int, count: int) -> tuple[float, Delays]:
    """Return the maximum while the streams ran, and the streams' results."""
    running = scene.generator.begin(
        run_streams, ibex.base_url, ibex.request("gpt-stream", stream=True), count, most_s=_SLOW_STREAM_S * 5
    )
    most = 0.0
    while not running.done():
        most = max(most, memory_mb(worker))
        time.sleep(0.05)  # a sampling interval; there is nothing to wait for
    return most, running.result()
