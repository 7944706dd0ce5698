"""`make e2e-smoke` with a scripted server in OpenAI's place, and without a key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.openai import ScriptedOpenAI

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


def test_a_key_and_a_server_are_enough() -> None:
    """Both completions are answered by the server and on record."""
    with ScriptedOpenAI.in_thread() as server:
        done = smoke(OPENAI_API_KEY="sk-scripted", OPENAI_BASE_URL=server.base_url)
        asked = [request.json().get("stream", False) for request in server.requests]

    assert (done.returncode, asked) == (0, [False, True]), done.stdout + done.stderr
    assert "2 checkpoints, 2 complete traces" in done.stdout


def test_a_provider_that_refuses_fails_it() -> None:
    """Nothing listens there."""
    done = smoke(OPENAI_API_KEY="sk-scripted", OPENAI_BASE_URL="http://127.0.0.1:1/v1")

    assert done.returncode == 1


def test_without_a_key_one_line_says_so() -> None:
    """Exit code 2, before anything is started."""
    done = smoke()

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "OPENAI_API_KEY" in done.stderr
