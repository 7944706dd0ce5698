"""Goals 4 and 5: a closed loop with an instant provider; one worker beside its peers, and more workers."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.gateways import LITELLM
from benchmarks.proxy.targets import DIRECT, WORKERS, ibex_name
from benchmarks.proxy.turns import accounted, in_turns, say

from harness.cpu_time import memory_mb

if TYPE_CHECKING:
    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene

_WARM_UP_S: Final = 1.0
_SLOW_S: Final = 6.0
"""So that each of its connections has an answer or two."""


def measure_closed(scene: Scene, options: Options) -> dict[str, Any]:
    """Return runs by name of target, each as ``Measured`` with its processor use."""

    def measure(name: str) -> dict[str, Any]:
        load = scene.generator.closed_loop
        seconds = max(options.seconds, _SLOW_S) if name == LITELLM else options.seconds
        with scene.target(name) as target:
            load(target, connections=options.connections // 10, seconds=_WARM_UP_S)
            scene.generator.settle(target)
            with accounted(target) as cpu:
                found = load(target, connections=options.connections, seconds=seconds)
                cpu["cpu_s"] = found.cpu_s
            serving = cpu["groups"].get(WORKERS, cpu["groups"].get(name, cpu["groups"]["provider"]))
            run = asdict(found) | {"cpu": cpu, "cpu_us": serving / max(1, found.requests) * 1e6}
            run["memory_mb"] = max((memory_mb(pid) for pid in target.workers), default=0.0)
        if name.startswith("IBEX"):
            run["drained_s"] = scene.drained_s
        say(
            f"closed loop: {name}: {found.rate:,.0f}/s, p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms,"
            f" {run['cpu_us']:.0f} µs of CPU a request, {found.failed} failed"
        )
        return run

    names = [DIRECT, *(ibex_name(workers) for workers in options.scaling), *scene.others]
    return {"runs": in_turns(names, options.rounds, measure), "cores": os.cpu_count()}
