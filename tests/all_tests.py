"""`make test`: all tests, on four tracks at a time.

Tests of running programs mostly wait for something, so three tracks of them share the machine: two halves of
``tests/integration``, each with some of ``tests/faults``, and the rest of ``tests/faults``. The fourth track has all
others, which compute, with a lower priority. What all but the first track print is shown when all have ended. The exit
code is the first that is not 0.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

INTEGRATION: Final = "tests/integration"
FAULTS: Final = "tests/faults"
BESIDE_INTEGRATION: Final = (
    ("postgres_failover", "rolling_restarts", "two_versions"),
    ("restricted_starts", "rotation"),
)
"""The modules of ``tests/faults`` on the tracks of ``tests/integration``, so that three tracks take the same time."""
NICENESS: Final = "10"
"""Of the tests that compute: tests with time limits go first."""


def main() -> int:
    """Run them in the current folder, and return the exit code."""
    pytest = [sys.executable, "-m", "pytest"]
    beside = [*pytest, "-p", "no:cacheprovider"]
    modules = sorted(map(str, Path(INTEGRATION).glob("test_*.py")))
    half = len(modules) // 2
    first, second = ([f"{FAULTS}/test_{name}.py" for name in names] for names in BESIDE_INTEGRATION)
    commands = [
        [*beside, FAULTS, *(f"--ignore={module}" for module in (*first, *second))],
        [*beside, *modules[half:], *second],
        ["nice", "-n", NICENESS, *beside, f"--ignore={INTEGRATION}", f"--ignore={FAULTS}"],
    ]
    with ExitStack() as files:
        tracks = []
        for command in commands:
            output = files.enter_context(tempfile.TemporaryFile())
            tracks.append((subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT), output))
        codes = [subprocess.run([*pytest, *modules[:half], *first], check=False).returncode]
        for process, output in tracks:
            codes.append(process.wait())
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout.buffer)
    sys.stdout.flush()
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
