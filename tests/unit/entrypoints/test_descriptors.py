"""The limit of open files is raised, and their table has room before it is needed (ADR 0035, ADR 0037)."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

MEASURE: Final = """
import os, resource, sys
from pathlib import Path
from ibex.entrypoints.descriptors import make_room_for_descriptors

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
    """Return how large the table of a process of its own is then, and how many files more are open than before."""
    arguments = map(str, (count, allowed, taken))
    run = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    slots, more = map(int, run.stdout.split())
    return slots, more


def test_there_is_room_and_nothing_is_open() -> None:
    """Without it the table of a process begins with room for 64 or 256."""
    slots, more = room(4_000, allowed=10_000)

    assert (slots >= 4_000, more) == (True, 0)
    assert room(1, allowed=10_000)[0] < 1_000


def test_no_more_than_is_allowed() -> None:
    """The limit of open files bounds it; asking for more is no failure."""
    slots, more = room(100_000, allowed=600)

    assert (600 <= slots <= 1_024, more) == (True, 0)


def test_a_process_that_may_open_nothing_more() -> None:
    """Goes on as it is."""
    assert room(2_000, allowed=100, taken=95)[1] == 0


LIMITS: Final = """
import logging, resource, sys
from ibex.entrypoints.descriptors import connection_limit, prepare_descriptors
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
    """A warning tells where it is too low; a worker then takes as many connections as its descriptors allow."""
    arguments = map(str, (soft, hard, concurrency))
    run = subprocess.run([sys.executable, "-c", LIMITS, *arguments], capture_output=True, text=True, check=True)

    assert run.stdout.splitlines() == said
