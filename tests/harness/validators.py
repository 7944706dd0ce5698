"""Programs that check files of other tools, from the environment that ``make validators`` installs, or the machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = ROOT / ".venv-deploy" / "bin"
TIME_LIMIT_S: Final = 50


def validator(name: str) -> str:
    """Return the path of a program of ``make validators``. Skips the test if it is not installed."""
    program = ENVIRONMENT / name
    if not program.exists():
        pytest.skip(f"{name} is not installed; make validators installs it")
    return str(program)


def program(name: str, package: str) -> str:
    """Return the path of a program of the machine. Skips the test if the Debian package is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's package {package})")
    return found


def run(*command: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return the exit code of a program, and what it printed."""
    done = subprocess.run(
        command,
        input=stdin,
        env=environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout
