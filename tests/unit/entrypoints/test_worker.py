"""Errors at the start of a worker. ``tests/integration`` has the tests of a serving worker."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("environ", "place", "code", "said"),
    [
        (
            {"IBEX_PORT": "high"},
            "3,4,0,-1,-1,0,-1",
            2,
            "ibex: IBEX_PORT is 'high'; allowed: 0 to 65535, 0 for any free port.",
        ),
        ({}, "3,4", 1, "ibex: a worker slot has 7 numbers, not 2"),
    ],
)
def test_an_error_is_one_line(environ: dict[str, str], place: str, code: int, said: str) -> None:
    """The exit code lets the supervisor stop the other workers."""
    worker = subprocess.run(
        [sys.executable, "-m", "ibex.entrypoints.worker", place],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (worker.returncode, worker.stdout, worker.stderr) == (code, "", f"{said}\n")
