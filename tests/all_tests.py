"""`make test`: all tests, on two tracks at a time.

Tests of running programs mostly wait for something. The first track has those in ``tests/integration``. The second has
all others, which compute, and then those in ``tests/faults``. What the second track prints is shown when it has ended.
The exit code is the first that is not 0.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from typing import IO, Final

INTEGRATION: Final = "tests/integration"
FAULTS: Final = "tests/faults"
NICENESS: Final = "5"
"""Of the tests that compute: tests with time limits go first."""


def main() -> int:
    """Run them in the current folder, and return the exit code."""
    pytest = [sys.executable, "-m", "pytest"]
    others = [*pytest, "-p", "no:cacheprovider", f"--ignore={INTEGRATION}", f"--ignore={FAULTS}"]
    second_track = (["nice", "-n", NICENESS, *others], [*pytest, "-p", "no:cacheprovider", FAULTS])
    codes: list[int] = []
    with tempfile.TemporaryFile("w+") as output:
        beside = threading.Thread(target=_run, args=(second_track, output, codes))
        beside.start()
        first = subprocess.run([*pytest, INTEGRATION], check=False).returncode
        beside.join()
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout)
    return next((code for code in (first, *codes) if code), 0)


def _run(commands: tuple[list[str], ...], output: IO[str], codes: list[int]) -> None:
    for command in commands:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
        codes.append(ended.returncode)


if __name__ == "__main__":
    sys.exit(main())
