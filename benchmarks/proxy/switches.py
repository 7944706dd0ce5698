"""Goal 12: context switches and system calls of a request at a fixed rate: what wake-ups cost beside computation.

The kernel counts the switches of each thread (``/proc/<pid>/task/<tid>/status``). A voluntary switch is a wait that
ended with a wake-up; an involuntary one is the scheduler's. The threads of a worker are its event loop, its journal's
writer, and those of gRPC. strace, if it is installed, counts the system calls in a run of its own, because it slows the
worker.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.proxy.paced import FIRST_BYTE_S, WORKERS_MEASURED
from benchmarks.proxy.targets import ibex_name
from benchmarks.proxy.turns import say

from harness.request_load import at_a_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene, Target

LOOP: Final = "event loop"
VOLUNTARY, INVOLUNTARY = "voluntary", "involuntary"
_COUNTS: Final = re.compile(r"^(non)?voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)
_CALL: Final = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)\s*$")
_WARM_UP_S: Final = 1.0
_CALLS_SHOWN: Final = 12

Switches = Counter[tuple[str, str]]


def measure_switches(scene: Scene, options: Options) -> dict[str, Any]:
    """Return the switches of a request by thread, those of a second without requests, and system calls of a request."""
    a_second = options.in_flight / FIRST_BYTE_S
    seconds = max(options.seconds, 3.0)
    with scene.target(ibex_name(WORKERS_MEASURED)) as target:
        scene.generator.settle(target)
        before = switches_of(target.workers)
        time.sleep(seconds)
        quiet = _per(before, switches_of(target.workers), seconds)
        requests = round(a_second * (seconds + _WARM_UP_S))
        before = switches_of(target.workers)
        _load(scene, target, a_second, seconds)
        busy = _per(before, switches_of(target.workers), requests)
        calls = _traced(scene, target, a_second, seconds)
    found = {
        "a_second": a_second,
        "workers": WORKERS_MEASURED,
        "per_request": busy,
        "quiet_per_s": quiet,
        "calls": None if calls is None else {name: count / requests for name, count in calls.most_common(_CALLS_SHOWN)},
        "all_calls": None if calls is None else sum(calls.values()) / requests,
    }
    say(f"switches: {total(busy):.1f} a request at {a_second:.0f}/s; {total(quiet):.0f} a second without requests")
    return found


def switches_of(pids: Iterable[int]) -> Switches:
    """Return the switches so far of the threads of some processes, by name of the thread and kind."""
    counts: Switches = Counter()
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                name = LOOP if task.name == str(pid) else (task / "comm").read_text().strip()
                status = (task / "status").read_text()
            except OSError:  # the thread has ended
                continue
            counts.update(read_switches(name, status))
    return counts


def read_switches(name: str, status: str) -> Switches:
    """Return the switches of one thread, as its ``status`` says."""
    return Counter({(name, INVOLUNTARY if non else VOLUNTARY): int(count) for non, count in _COUNTS.findall(status)})


def read_calls(lines: Iterable[str]) -> Counter[str]:
    """Return the number of calls of each system call, as ``strace -c`` prints them."""
    counts: Counter[str] = Counter()
    for line in lines:
        found = _CALL.match(line)
        if found is not None and found[2] != "total":
            counts[found[2]] += int(found[1])
    return counts


def total(by_thread: Mapping[str, Mapping[str, float]]) -> float:
    """Return the sum over threads and kinds."""
    return sum(sum(kinds.values()) for kinds in by_thread.values())


def _per(before: Switches, after: Switches, of: float) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (name, kind), count in (after - before).items():
        found.setdefault(name, {VOLUNTARY: 0.0, INVOLUNTARY: 0.0})[kind] = count / of
    return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))


def _load(scene: Scene, target: Target, a_second: float, seconds: float) -> None:
    scene.generator.run(
        at_a_rate,
        target.base_url,
        [target.request("gpt-paced")],
        a_second=a_second,
        seconds=seconds,
        warm_up_s=_WARM_UP_S,
    )


def _traced(scene: Scene, target: Target, a_second: float, seconds: float) -> Counter[str] | None:
    """Return the system calls of the workers under the same load; None without strace, or the right to use it."""
    program = shutil.which("strace")
    if program is None:
        scene.missing.append("strace")
        return None
    tracers = [
        subprocess.Popen(
            [program, "-c", "-f", "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for pid in target.workers
    ]
    try:
        _load(scene, target, a_second, seconds)
    finally:
        said = [_end(tracer) for tracer in tracers]
    calls = read_calls(line for lines in said for line in lines)
    return calls or None


def _end(tracer: subprocess.Popen[str]) -> Sequence[str]:
    tracer.send_signal(signal.SIGINT)  # strace prints its table, and detaches from the process
    return tracer.communicate(timeout=60)[1].splitlines()
