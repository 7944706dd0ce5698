"""`make test`: all tests, on three tracks at a time.

Tests of running programs mostly wait for something, so two tracks of them share the machine: those in
``tests/integration`` and those in ``tests/faults``. The third track has all others, which compute, with a lower
priority. What the second and the third track print is shown when all have ended. The exit code is the first that is
not 0.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from typing import Final

INTEGRATION: Final = "tests/integration"
FAULTS: Final = "tests/faults"
NICENESS: Final = "10"
"""Of the tests that compute: tests with time limits go first."""


def main() -> int:
    """Run them in the current folder, and return the exit code."""
    pytest = [sys.executable, "-m", "pytest"]
    beside = [*pytest, "-p", "no:cacheprovider"]
    computing = ["nice", "-n", NICENESS, *beside, f"--ignore={INTEGRATION}", f"--ignore={FAULTS}"]
    with tempfile.TemporaryFile() as faults, tempfile.TemporaryFile() as others:
        tracks = [
            (subprocess.Popen([*beside, FAULTS], stdout=faults, stderr=subprocess.STDOUT), faults),
            (subprocess.Popen(computing, stdout=others, stderr=subprocess.STDOUT), others),
        ]
        codes = [subprocess.run([*pytest, INTEGRATION], check=False).returncode]
        for process, output in tracks:
            codes.append(process.wait())
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout.buffer)
    sys.stdout.flush()
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
