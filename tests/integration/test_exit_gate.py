"""`make exit-gate` with its last line only, which needs no servers.

That line is `make e2e-smoke`, so this module also tests it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.openai import ScriptedOpenAI
from harness.openai_wire import error

TIMEOUT_S = 90
pytestmark = [pytest.mark.integration, pytest.mark.timeout(TIMEOUT_S + 30)]

ROOT = Path(__file__).parents[2]


def gate(results: Path, *arguments: str, **environ: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Run the program. Return its result and its report."""
    command = [sys.executable, "-m", "benchmarks.exit_gate", "--json", str(results), *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": "tests", **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done, json.loads(results.read_text())


def test_a_failing_line_fails_the_gate(tmp_path: Path) -> None:
    """The provider refuses the key, so the smoke test fails. The output does not contain the key."""
    with ScriptedOpenAI.in_thread() as server:
        server.put(error(401))
        key = {"OPENAI_API_KEY": "sk-canary-77", "OPENAI_BASE_URL": server.base_url}
        done, told = gate(tmp_path / "gate.json", "--only", "smoke", **key)

    assert done.returncode == 1, done.stdout + done.stderr
    assert not told["passed"]
    assert [(line["what"], line["passed"], line["figure"]) for line in told["lines"]] == [
        ("make e2e-smoke", False, "exit code 2")  # the exit code of make if its command fails
    ]
    assert "exit-gate: 1 of 1 failed" in done.stdout
    assert "\033[" not in done.stdout
    assert "sk-canary-77" not in done.stdout + done.stderr + json.dumps(told)


def test_passing_lines_pass_the_gate(tmp_path: Path) -> None:
    """The exit code is 0. The smoke test sends a buffered and a streamed request."""
    with ScriptedOpenAI.in_thread() as server:
        key = {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": server.base_url}
        done, told = gate(tmp_path / "gate.json", "--only", "smoke", **key)
        asked = [request.json().get("stream", False) for request in server.requests]

    assert done.returncode == 0, done.stdout + done.stderr
    assert told["passed"]
    assert "exit-gate: all 1 passed" in done.stdout
    assert asked == [False, True]
