"""The version of IBEX before this one, as a wheel that runs beside the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

OLDER_COMMIT: Final = "ab361a9618554bb25add65c8a7651fd2588d423d"
WHEEL: Final = "IBEX_OLDER_WHEEL"
"""A variable of the tests: the path of a wheel to use, where the history is not available."""
_ROOT: Final = Path(__file__).parents[2]
_BUILT: Final = ("src", "alembic", "pyproject.toml", "README.md", "LICENSE")


class NoOlderVersionError(Exception):
    """The older version cannot be built. The message says why, and what to do."""


def older_version(folder: Path) -> Path:
    """Unpack the older version's wheel into a folder, and return the path to put into PYTHONPATH.

    The wheel is built from the commit, without network. Raises ``NoOlderVersionError`` if there is neither.
    """
    given = os.environ.get(WHEEL)
    wheel = Path(given) if given else _build(folder)
    installed = folder / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


def _build(folder: Path) -> Path:
    source, tar = folder / "source", folder / "source.tar"
    source.mkdir()
    archive = ["git", "archive", "-o", str(tar), OLDER_COMMIT, *_BUILT]
    try:
        made = subprocess.run(archive, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise NoOlderVersionError(f"git is not installed. Install it, or set {WHEEL} to a wheel.") from None
    if made.returncode != 0:
        raise NoOlderVersionError(
            f"commit {OLDER_COMMIT[:7]} is not in this clone: run `git fetch --unshallow`, or set {WHEEL} to a wheel."
        )
    subprocess.run(["tar", "-xf", str(tar), "-C", str(source)], timeout=60, check=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")],
        cwd=source,
        capture_output=True,
        timeout=120,
        check=True,
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel
