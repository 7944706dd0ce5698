"""Processor time from /proc, by group of processes and for the whole machine.

A process's time is in ticks of 10 ms in ``stat``, which is a tenth of what nginx uses in some seconds at 400 requests a
second. The times of its threads in ``schedstat``, if the kernel has it, are in nanoseconds, but without threads that
have ended. Neither is too high, so the larger counts.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM = 11, 12
_IDLE = (3, 4)


def tree(pid: int) -> list[int]:
    """Return a process and all of its running descendants."""
    children: list[int] = []
    with suppress(OSError):  # the process ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (thread / "children").read_text().split())
    return [pid, *(found for child in children for found in tree(child))]


def used_s(pids: Iterable[int]) -> float:
    """Return the processor time that running processes have used so far, in seconds."""
    total_s = 0.0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            total_s += max((int(fields[_USER]) + int(fields[_SYSTEM])) * _TICK_S, _threads_s(pid))
    return total_s


def _threads_s(pid: int) -> float:
    """Return the processor time of a process's running threads in seconds; 0 if the kernel does not tell."""
    total_ns = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the thread ended meanwhile
            total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def machine_used_s() -> float:
    """Return the processor time that the whole machine has used so far, in seconds."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - sum(fields[at] for at in _IDLE)) * _TICK_S


@dataclass(slots=True)
class CpuUse:
    """Seconds of processor time by group of processes, within ``wall_s`` seconds.

    ``machine_s`` is the time of the whole machine, including processes outside every group.
    """

    by_group: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    machine_s: float = 0.0


@contextmanager
def metered(groups: Mapping[str, Iterable[int]]) -> Iterator[CpuUse]:
    """Fill the yielded object when the block ends. Each group is given by its topmost processes."""
    pids = {name: [pid for root in roots for pid in tree(root)] for name, roots in groups.items()}
    use = CpuUse()
    before = {name: used_s(each) for name, each in pids.items()}
    machine, began = machine_used_s(), time.monotonic()
    yield use
    use.wall_s, use.machine_s = time.monotonic() - began, machine_used_s() - machine
    use.by_group = {name: used_s(each) - before[name] for name, each in pids.items()}


def memory_mb(pid: int) -> float:
    """Return the resident set size of a process in MB (2^20 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
