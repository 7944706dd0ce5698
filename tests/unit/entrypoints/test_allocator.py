"""Memory that is free again is used again, and not got from the kernel anew each time (ADR 0034)."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from ibex.entrypoints.allocator import keep_freed_memory

COPIES: Final = 50
MEASURE: Final = f"""
import resource, sys
from ibex.entrypoints.allocator import keep_freed_memory
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
    """Return how many pages a process of its own got from the kernel."""
    run = subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=False)
    if run.returncode == 3:
        pytest.skip("this C library has no such setting")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_large_copies_get_the_same_pages_again() -> None:
    """Beside what happens without it, which gets them anew for every copy."""
    assert faults("kept") < COPIES < faults("as it is") / 100


def test_a_c_library_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens."""
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())

    assert not keep_freed_memory()
