"""``make pictures`` with an ``ibex`` that does not start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_command_that_fails_makes_no_picture(tmp_path: Path) -> None:
    """The pictures would show its error. The message has its output."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "psycopg.py").write_text("raise ImportError('this driver is broken')")
    environ = {**os.environ, "PYTHONPATH": f"{broken}{os.pathsep}{ROOT}"}

    ran = subprocess.run(
        [sys.executable, "-m", "tools.pictures"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 1
    assert ran.stderr.startswith("ibex dev did not start:")
    assert "this driver is broken" in ran.stderr
    assert not (tmp_path / "docs").exists()
