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
    """Run the program, with nothing else of this process's environment."""
    return subprocess.run(
        [sys.executable, str(TESTS / "e2e_smoke.py")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS), **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_without_a_key_one_line_says_so() -> None:
    """Exit code 2, before anything is started."""
    done = smoke()

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "OPENAI_API_KEY" in done.stderr
