"""Goal 8: full load for minutes; memory, p99 and errors slice by slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.turns import say

from harness.cpu_time import memory_mb

if TYPE_CHECKING:
    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene

WORKERS_MEASURED: Final = 2
_SLICES: Final = 6
_MINUTE_S: Final = 60.0


def measure_soak(scene: Scene, options: Options) -> dict[str, Any]:
    """Return slices of a minute, or a sixth of the whole if that is less: rate, p99, failed, memory in MB.

    Memory is that of the largest worker at the end of the slice, and of the other processes.
    """
    whole_s = options.soak_minutes * _MINUTE_S
    slice_s = min(_MINUTE_S, whole_s / _SLICES)
    slices: list[dict[str, float]] = []
    with scene.ibex(WORKERS_MEASURED) as ibex:
        scene.generator.closed_loop(ibex, connections=options.connections, seconds=1)
        for number in range(round(whole_s / slice_s)):
            found = scene.generator.closed_loop(ibex, connections=options.connections, seconds=slice_s)
            memory = max(memory_mb(pid) for pid in ibex.workers)
            slices.append(
                {
                    "until_s": (number + 1) * slice_s,
                    "rate": found.rate,
                    "p50_ms": found.p50_ms,
                    "p99_ms": found.p99_ms,
                    "failed": found.failed,
                    "requests": found.requests,
                    "memory_mb": memory,
                }
            )
            say(
                f"full load, {(number + 1) * slice_s:.0f} of {whole_s:.0f} s: {found.rate:,.0f}/s,"
                f" p99 {found.p99_ms:.1f} ms, {found.failed} failed, {memory:.1f} MB"
            )
    return {"minutes": options.soak_minutes, "slices": slices, "drained_s": scene.drained_s}
