"""Measure targets in turns, so that other load of the machine affects all of them, and report progress."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from harness.cpu_time import metered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.proxy.targets import Target

T = TypeVar("T")
BENCH = "load generator"
_BEGAN = time.monotonic()


def in_turns(names: Sequence[str], rounds: int, measure: Callable[[str], T]) -> dict[str, list[T]]:
    """Measure all names several times, every second round in reverse, and return the results by name."""
    found: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(measure(name))
    return found


@contextmanager
def accounted(target: Target) -> Iterator[dict[str, Any]]:
    """Measure the machine's processor time during the block: seconds by group, in total, and of the wall clock.

    The block stores the load generator's own time under ``cpu_s``.
    """
    cpu: dict[str, Any] = {}
    before = time.process_time()
    with metered(target.groups) as use:
        yield cpu
    own = cpu.pop("cpu_s", 0.0) + time.process_time() - before  # this process reads the log of the proxy
    groups = {**use.by_group, BENCH: own}
    others = max(0.0, use.machine_s - sum(groups.values()))
    cpu |= {"groups": groups, "others": others, "wall_s": use.wall_s, "machine_s": use.machine_s}


def say(line: str) -> None:
    """Print a line with the seconds since the beginning."""
    sys.stdout.write(f"[{time.monotonic() - _BEGAN:4.0f} s] {line}\n")
    sys.stdout.flush()
