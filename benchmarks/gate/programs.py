"""Checks by other programs: the security matrix by pytest, and the smoke test by its exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.gate.verdict import Line

from harness.openai import ScriptedOpenAI

ROOT: Final = Path(__file__).parents[2]
_MATRIX: Final = "tests/integration/test_security_matrix.py"
_MOST_S: Final = 120
_COUNTS: Final = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b")


def security_matrix() -> list[Line]:
    """Run the matrix in its own process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", _MATRIX]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_MOST_S, check=False)
    return [judge_tests("the security matrix", done.returncode, done.stdout)]


def judge_tests(what: str, code: int, output: str) -> Line:
    """Return the line for a pytest run, by its exit code and its last line."""
    lines = output.strip().splitlines()
    counts = {kind: int(count) for count, kind in _COUNTS.findall(lines[-1] if lines else "")}
    passed = counts.pop("passed", 0)
    others = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    note = others if code in {0, 1} else f"pytest's exit code {code}"
    return Line(what, f"{passed} tests passed", "all", code == 0 and passed > 0 and not counts, note, passed)


def e2e_smoke() -> list[Line]:
    """Run ``make e2e-smoke`` with the key of the environment; without one, against a scripted server."""
    with ExitStack() as stack:
        environ, note = dict(os.environ), "with the key and server of the environment"
        if not environ.get("OPENAI_API_KEY"):
            server = stack.enter_context(ScriptedOpenAI.in_thread())
            environ |= {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": server.base_url}
            note = "against a scripted server: there is no OPENAI_API_KEY"
        began = time.monotonic()
        command = ["make", "--silent", "e2e-smoke"]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=_MOST_S, check=False
        )
        took = time.monotonic() - began
    figure = f"exit code {done.returncode}"
    return [Line("make e2e-smoke", figure, "0", done.returncode == 0, f"{note}, {took:.0f} s", done.returncode)]
