"""`make test`: all tests. Those of running programs mostly wait; meanwhile the others are run beside them.

What the others say is shown when both have ended. The exit code is the worse of the two.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from typing import Final

RUNNING_PROGRAMS: Final = ("tests/integration", "tests/faults")
NICENESS: Final = "5"
"""Of the others: what is tested with time limits goes first."""


def main() -> int:
    """Run them in the current folder, and return the exit code."""
    pytest = [sys.executable, "-m", "pytest"]
    aside = [f"--ignore={folder}" for folder in RUNNING_PROGRAMS]
    others = ["nice", "-n", NICENESS, *pytest, "-p", "no:cacheprovider", *aside]
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(others, stdout=output, stderr=subprocess.STDOUT) as beside:
            first = subprocess.run([*pytest, *RUNNING_PROGRAMS], check=False).returncode
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout)
    return max(first, beside.returncode)


if __name__ == "__main__":
    sys.exit(main())
