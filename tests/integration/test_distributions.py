"""The wheel and the source distribution of this repository."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from release.contents import sdist_problems, wheel_problems

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_wheel_and_source_distribution_contain_what_they_need_and_nothing_else(tmp_path: Path) -> None:
    """Each file of them is one of the repository, and no file that users need is left out."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    for target in ("wheel", "sdist"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(tmp_path)]
        subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [name for name in known if (ROOT / name).is_file()]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")

    with zipfile.ZipFile(wheel) as archive:
        assert wheel_problems(archive.namelist(), files, version) == []
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    assert sdist_problems(names, files) == []
