"""Process tuning: garbage collector, malloc, and the limit and table of open files."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Final

import pytest

from ibex.entrypoints.process_tuning import GC_THRESHOLDS, collect_rarely, keep_freed_memory

COPIES: Final = 50
MEASURE_FAULTS: Final = f"""
import resource, sys
from ibex.entrypoints.process_tuning import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)
body = bytes(8 << 20)
def copy():
    return [bytearray(body) for _ in range(3)]
copy()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({COPIES}):
    copy()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return the number of page faults of a new process."""
    run = subprocess.run([sys.executable, "-c", MEASURE_FAULTS, how], capture_output=True, text=True, check=False)
    if run.returncode == 3:
        pytest.skip("this C library has no such setting")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_large_copies_reuse_pages() -> None:
    """A process without the setting gets new pages for every copy."""
    assert faults("kept") < COPIES < faults("as it is") / 100


def test_a_c_library_without_mallopt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function returns False and changes nothing."""
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())

    assert not keep_freed_memory()


def test_the_thresholds_of_the_collector_are_raised() -> None:
    """They are far above Python's defaults of 700 to 2,000 objects."""
    before = gc.get_threshold()
    try:
        collect_rarely()

        assert gc.get_threshold() == GC_THRESHOLDS
        assert GC_THRESHOLDS[0] > 2_000
    finally:
        gc.set_threshold(*before)


MEASURE_SLOTS: Final = """
import os, resource, sys
from pathlib import Path
from ibex.entrypoints.process_tuning import make_room_for_descriptors

def slots():
    return int(Path("/proc/self/status").read_text().split("FDSize:")[1].split()[0])

count, allowed = map(int, sys.argv[1:3])
resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
taken = [os.dup(0) for _ in range(int(sys.argv[3]))]
before = len(os.listdir("/proc/self/fd"))
make_room_for_descriptors(min(count, allowed))
print(slots(), len(os.listdir("/proc/self/fd")) - before)
"""


def room(count: int, allowed: int, taken: int = 0) -> tuple[int, int]:
    """Return the table size of a new process, and how many more files it has open than before."""
    arguments = map(str, (count, allowed, taken))
    run = subprocess.run([sys.executable, "-c", MEASURE_SLOTS, *arguments], capture_output=True, text=True, check=True)
    slots, more = map(int, run.stdout.split())
    return slots, more


def test_the_table_grows_and_no_file_stays_open() -> None:
    """Otherwise the table of a process begins with 64 or 256 entries."""
    slots, more = room(4_000, allowed=10_000)

    assert (slots >= 4_000, more) == (True, 0)
    assert room(1, allowed=10_000)[0] < 1_000


def test_the_table_is_bounded_by_the_limit() -> None:
    """Requesting more is not an error."""
    slots, more = room(100_000, allowed=600)

    assert (600 <= slots <= 1_024, more) == (True, 0)


def test_a_process_without_a_free_descriptor_is_unchanged() -> None:
    """No error is raised, and no more files are open than before."""
    assert room(2_000, allowed=100, taken=95)[1] == 0


LIMITS: Final = """
import logging, resource, sys
from ibex.entrypoints.process_tuning import connection_limit, prepare_descriptors
from ibex.entrypoints.settings import Settings

soft, hard, concurrency = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
settings = Settings(max_concurrency=concurrency)
logging.basicConfig(stream=sys.stdout, format="%(levelname)s")
prepare_descriptors(settings)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], connection_limit(settings))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "concurrency", "said"),
    [
        (256, 8_000, 2_000, ["8000 6680"]),
        (256, 1_024, 2_000, ["WARNING", "1024 352"]),
        (256, 1_024, 100, ["1024 604"]),
        (256, 340, 100, ["WARNING", "340 10"]),
    ],
)
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int, concurrency: int, said: list[str]) -> None:
    """A low hard limit is logged, and the worker accepts as many connections as it allows."""
    arguments = map(str, (soft, hard, concurrency))
    run = subprocess.run([sys.executable, "-c", LIMITS, *arguments], capture_output=True, text=True, check=True)

    assert run.stdout.splitlines() == said
