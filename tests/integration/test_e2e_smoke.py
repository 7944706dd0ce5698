"""`make e2e-smoke` without a key.

``test_exit_gate`` runs it with a server that responds and with one that refuses the key.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

TESTS = Path(__file__).parents[1]
TIMEOUT_S = 90


def smoke(**environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program without the other environment variables of this process."""
    return subprocess.run(
        [sys.executable, str(TESTS / "e2e_smoke.py")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS), **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_a_missing_key_is_reported_in_one_line() -> None:
    """The program exits with code 2 before it starts anything."""
    done = smoke()

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "OPENAI_API_KEY" in done.stderr
