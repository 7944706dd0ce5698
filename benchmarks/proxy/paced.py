"""Goals 1 to 3: a provider with a model's pace, requests at a fixed rate, and the proxy's overhead for each of them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.gateways import FLOORS
from benchmarks.proxy.generator import curve, percentile
from benchmarks.proxy.targets import DIRECT, PROVIDER, WORKERS, ibex_name
from benchmarks.proxy.turns import accounted, in_turns, say

from harness.request_load import at_a_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene

    from harness.request_load import Answer

FIRST_BYTE_S: Final = 0.25
WORKERS_MEASURED: Final = 2
_WARM_UP_S: Final = 1.5
_SHARE: Final = 0.5
_LEAST: Final = 2.0
WAY: Final = "to provider and back"


def measure_paced(scene: Scene, options: Options, rates: Mapping[str, float]) -> dict[str, Any]:
    """Return runs by name of target; ``rates`` are requests per second that peers reached in a closed loop.

    A peer that cannot keep up gets half of its rate, so that its overhead is not queueing time, and the run reports
    this.
    """
    full = options.in_flight / FIRST_BYTE_S
    seconds = max(options.seconds, 3.0)

    def measure(name: str) -> dict[str, Any]:
        a_second = full if name not in peers else min(full, max(_LEAST, _SHARE * rates[name]))
        with scene.target(name) as target:
            scene.generator.settle(target)
            requests = [target.request("gpt-paced")]
            with accounted(target) as cpu:
                load = scene.generator.run(
                    at_a_rate,
                    target.base_url,
                    requests,
                    a_second=a_second,
                    seconds=seconds,
                    warm_up_s=_WARM_UP_S,
                )
                cpu["cpu_s"] = load.cpu_s
        run = {"a_second": a_second, "failed": load.failed, "cpu": cpu, **_told(load.answers)}
        serving_s = cpu["groups"].get(WORKERS, cpu["groups"].get(name, cpu["groups"][PROVIDER]))
        run["cpu_us"] = serving_s / (a_second * (seconds + _WARM_UP_S)) * 1e6
        if name.startswith("IBEX"):
            run["stages"] = _stages(load.answers)
        say(
            f"paced, {a_second:.0f}/s: {name}: overhead p50 {run['p50_ms']:.2f} ms, p99 {run['p99_ms']:.2f} ms,"
            f" {load.failed} failed; generator late by p99 {run['late_p99_ms']:.2f} ms"
        )
        return run

    floors = [name for name in FLOORS if name in scene.others]
    peers = [name for name in scene.others if name not in FLOORS and name in rates]
    names = [DIRECT, *floors, ibex_name(WORKERS_MEASURED), *peers]
    return {"runs": in_turns(names, options.rounds, measure), "in_flight": options.in_flight}


def _told(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return percentiles in milliseconds: of the overhead, and of the generator's own delay."""
    overhead = [answer.overhead_ns / 1e6 for answer in answers]
    late = [(answer.sent_ns - answer.due_ns) / 1e6 for answer in answers]
    held = [answer.provider_ns / 1e9 for answer in answers]
    return {
        "requests": len(answers),
        "p50_ms": percentile(overhead, 50),
        "p99_ms": percentile(overhead, 99),
        "worst_ms": max(overhead, default=0.0),
        "late_p99_ms": percentile(late, 99),
        "provider_s": statistics.fmean(held) if held else 0.0,
        "curve": curve(overhead),
    }


def _stages(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Return p50 and p99 in ms of each stage of Server-Timing; for the provider's, the time beyond its own."""
    stages: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        told = (part.split(";dur=") for part in answer.timing.split(", ") if ";dur=" in part)
        durations = {name: float(duration) for name, duration in told}
        for name, duration in durations.items():
            if name != "provider":
                stages[name].append(duration)
        if "provider" in durations:
            stages[WAY].append(durations["provider"] - answer.provider_ns / 1e6)
    return {name: {"p50_ms": percentile(ms, 50), "p99_ms": percentile(ms, 99)} for name, ms in stages.items()}
