"""The cost of a request by part of the program: where a sampling profiler finds the worker under full load.

py-spy samples the worker from another process some hundred times a second and sees the thread that holds the
interpreter lock, if any; it does not see system calls that release the lock. A sample counts for the part of the
innermost frame of IBEX, so the time of a library counts for the part that calls it. The profiler slows the worker a
little, so the shares are taken from this run, and the totals from the undisturbed ones.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.installation import PYTHON_OF_USERS
from benchmarks.proxy.turns import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene

PROGRAM: Final = PYTHON_OF_USERS.with_name("py-spy")
REST: Final = "event loop, interpreter"
_SAMPLES_A_SECOND: Final = 250
_FUNCTIONS: Final = 20
_PARTS: Final = {
    "ibex/adapters/http_server/": "HTTP towards the client",
    "ibex/adapters/openai/": "HTTP to the provider, and the fold",
    "ibex/adapters/redis/": "rate limit, freshness (Redis)",
    "ibex/adapters/grpc/": "auth (gRPC)",
    "ibex/adapters/journal/": "journal",
    "ibex/adapters/postgres/": "checkpoints, directives (PostgreSQL)",
    "ibex/adapters/clickhouse/": "traces (ClickHouse)",
    "ibex/adapters/telemetry/": "metrics and log",
    "ibex/domain/": "the path itself (domain)",
    "/uvicorn/": "HTTP towards the client",
    "/litestar/": "HTTP towards the client",
}


def measure_profile(scene: Scene, options: Options) -> dict[str, Any] | None:
    """Return shares of samples by part, and functions by their own samples; None without py-spy."""
    if not PROGRAM.exists():
        scene.missing.append("py-spy")
        return None
    with scene.ibex(1) as ibex, tempfile.NamedTemporaryFile("r", suffix=".raw") as output:
        scene.generator.closed_loop(ibex, connections=options.connections, seconds=1)
        (worker,) = ibex.workers
        seconds = round(max(options.seconds, 3))
        command = [str(PROGRAM), "record", "--pid", str(worker), "--duration", str(seconds), "--format", "raw"]
        command += ["--rate", str(_SAMPLES_A_SECOND), "--full-filenames", "--gil", "--output", output.name]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as profiler:
            scene.generator.closed_loop(ibex, connections=options.connections, seconds=seconds + 1)
            said = profiler.communicate(timeout=60)[1]
        if profiler.returncode != 0:
            raise RuntimeError(f"py-spy: {said.strip()[-300:]}")
        found = read_profile(output.read().splitlines())
    say("profile: " + ", ".join(f"{part} {share:.0%}" for part, share in found["parts"].items()))
    return found


def read_profile(lines: Sequence[str]) -> dict[str, Any]:
    """Parse py-spy's raw lines: a stack, its frames separated by semicolons with the innermost last, and a count."""
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        parts[_part(frames)] += int(count)
        functions[_function(frames[-1])] += int(count)
    samples = max(1, sum(parts.values()))
    return {
        "samples": samples,
        "parts": {part: count / samples for part, count in parts.most_common()},
        "functions": {name: count / samples for name, count in functions.most_common(_FUNCTIONS)},
    }


def _part(frames: Sequence[str]) -> str:
    for frame in reversed(frames):
        for place, part in _PARTS.items():
            if place in frame:
                return part
    return REST


def _function(frame: str) -> str:
    """Return a frame's function and file, without the line and the folders above its package."""
    name, _, place = frame.partition(" (")
    file = place.rpartition(":")[0] or place.rstrip(")")
    for above in ("/site-packages/", "/src/", "/lib/python"):
        file = file.rpartition(above)[2]
    return f"{name} ({file})"
