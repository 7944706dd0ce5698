"""Counters of another process: instructions where perf counts them, else processor time; and Python calls.

A counter is a context manager over a process id. It yields a ``Count`` that has its amount once the block has ended.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

PROBE: Final = Path(__file__).parent / "count_calls"
"""The folder of the module that counts calls, for ``PYTHONPATH``."""
CALLS_FOLDER: Final = "BENCH_GATE_CALLS"
_LINE: Final = re.compile(r"^(\d+(?:\.\d+)?|<[a-z ]+>),[^,]*,([^,]+),", re.MULTILINE)
_PERF_TIMEOUT_S: Final = 10
_POLL_S: Final = 0.05
_QUIET_NS: Final = 300_000_000
_IDLE_SHARE: Final = 0.03


@dataclass(slots=True)
class Count:
    """How much was counted, in the unit of the counter."""

    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Counter:
    """A way to count: its name and unit in the report, and how many counted events make one unit."""

    name: str
    unit: str
    scale: float
    over: Callable[[int], AbstractContextManager[Count]]


def find_cpu_counter() -> Counter:
    """Return the counter of instructions if this machine counts them, else that of processor time."""
    try:
        tried = _perf("-e", "instructions", "true")
    except OSError:
        tried = ""
    if parse_perf(tried) is not None:
        return Counter("instructions", "thousand", 1e3, lambda pid: perf_count(pid, "instructions"))
    return Counter("CPU time", "µs", 1e3, _cpu_time)


def parse_perf(text: str) -> float | None:
    """Parse the only event in the output of ``perf stat -x,``; None without a number, as on most virtual machines.

    Without the privilege to count the kernel, perf names the event ``instructions:u``.
    """
    found = _LINE.findall(text)
    if len(found) != 1 or found[0][0].startswith("<"):
        return None
    return float(found[0][0])


@contextmanager
def perf_count(pid: int, event: str) -> Iterator[Count]:
    """Count an event of all threads of a process. Raises ``RuntimeError`` if perf does not."""
    count = Count()
    orders, order = os.pipe()
    answers, answer = os.pipe()
    options = ["-e", event, "--delay=-1", f"--control=fd:{orders},{answer}", "-p", str(pid)]
    perf = subprocess.Popen(
        ["perf", "stat", "-x,", *options],
        env={**os.environ, "LC_ALL": "C"},
        pass_fds=(orders, answer),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(orders)
    os.close(answer)  # so that reading ends if perf does
    try:
        _tell(order, answers, b"enable\n")
        yield count
        _tell(order, answers, b"disable\n")
    finally:
        os.close(order)
        os.close(answers)
        perf.send_signal(signal.SIGINT)
        said = perf.communicate(timeout=_PERF_TIMEOUT_S)[1]
    found = parse_perf(said)
    if found is None:
        raise RuntimeError(f"perf did not count {event}: {said.strip()[-300:]}")
    count.amount = found


@contextmanager
def count_calls(folder: Path, pid: int) -> Iterator[Count]:
    """Count the calls in a process that was started with ``PROBE`` and this folder."""
    count, path = Count(), folder / str(pid)
    before = int.from_bytes(path.read_bytes(), "little")
    yield count
    count.amount = int.from_bytes(path.read_bytes(), "little") - before


def cpu_ns(pid: int) -> int:
    """Return the processor time of all threads of a process so far, in nanoseconds. Raises ``OSError`` without it."""
    clock = ctypes.c_int()
    number = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if number != 0:
        raise OSError(number, os.strerror(number))
    return time.clock_gettime_ns(clock.value)


def wait_until_idle(pid: int, timeout_s: float = 10.0) -> None:
    """Wait until a process is nearly idle, as a worker is after its deliveries.

    Raises ``TimeoutError``.
    """
    deadline = time.monotonic() + timeout_s
    since_ns, used_ns = time.monotonic_ns(), cpu_ns(pid)
    while time.monotonic_ns() - since_ns < _QUIET_NS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} was not idle within {timeout_s:g} s")
        time.sleep(_POLL_S)  # nothing signals that a worker is idle
        if cpu_ns(pid) - used_ns > _QUIET_NS * _IDLE_SHARE:
            since_ns, used_ns = time.monotonic_ns(), cpu_ns(pid)


def _tell(order: int, answers: int, what: bytes) -> None:
    """Send perf a command and wait until it has run it, or has exited: then its output contains the reason."""
    with suppress(BrokenPipeError):
        os.write(order, what)
        os.read(answers, 16)


@contextmanager
def _cpu_time(pid: int) -> Iterator[Count]:
    count, before = Count(), cpu_ns(pid)
    yield count
    count.amount = cpu_ns(pid) - before


def _perf(*arguments: str) -> str:
    """Return what ``perf stat`` prints on stderr. Raises ``OSError`` if there is no perf."""
    command = ["perf", "stat", "-x,", *arguments]
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False).stderr
