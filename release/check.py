"""Build a wheel and a source distribution into dist/, and check both as a user would get them.

The wheel must contain what it needs and nothing else, and a completion through the `ibex dev` of an environment that
contains only the wheel must be answered. The changelog must fit the version; with --draft, that of a version to come.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from release.changelog import changelog_problems
from release.contents import sdist_problems, wheel_problems
from release.installed import CheckError, complete, install, run

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parents[1]
DIST: Final = ROOT / "dist"
IMPORTED: Final = "import ibex, sys; print(ibex.__file__)"


def build() -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from it. Return the paths of both."""
    for pattern in ("*.whl", "*.tar.gz"):
        for old in DIST.glob(pattern):
            old.unlink()
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST), str(ROOT)])
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    return wheel, sdist


def tracked_files() -> list[str]:
    """Return the names of the files that git tracks. Raises ``CheckError`` without git."""
    return [name for name in run(["git", "-C", str(ROOT), "ls-files", "-z"]).split("\0") if name]


def check_contents(wheel: Path, sdist: Path, version: str) -> list[str]:
    """Return what is wrong with the files of both."""
    tracked = tracked_files()
    with zipfile.ZipFile(wheel) as archive:
        problems = wheel_problems(archive.namelist(), tracked, version)
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    return problems + sdist_problems(names, tracked)


def check_installation(wheel: Path, constraints: Path) -> list[str]:
    """Return what is wrong with the installed wheel: nothing, or the reason why it gave no completion."""
    folder = Path(tempfile.mkdtemp(prefix="ibex-release-"))
    try:
        folder.chmod(0o755)  # PostgreSQL, started by root, runs as another user
        python = install(wheel, folder / "environment", constraints, "embedded")
        place = run([str(python), "-I", "-c", IMPORTED], cwd=folder).strip()
        if not place.startswith(str(folder)):
            return [f"the environment imports {place}, not the wheel"]
        if not complete(python, folder):
            return ["the completion was empty"]
    except CheckError as failed:
        return [str(failed)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return []


def main(arguments: list[str]) -> int:
    """Run the checks, print a line for each, and return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__)
    parser.add_argument("--draft", action="store_true", help="accept a version that the changelog does not release yet")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt", help="the versions to install")
    given = parser.parse_args(arguments)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    try:
        wheel, sdist = build()
    except (CheckError, subprocess.SubprocessError) as failed:
        sys.stderr.write(f"FAILED  build: {failed}\n")
        return 1
    checks: list[tuple[str, Callable[[], list[str]]]] = [
        (
            f"CHANGELOG.md fits version {version}" + (", a draft" if given.draft else ""),
            lambda: changelog_problems(changelog, version, is_draft=given.draft),
        ),
        (f"{wheel.name} and {sdist.name} contain what they need", lambda: check_contents(wheel, sdist, version)),
        ("a completion through ibex dev of the wheel", lambda: check_installation(wheel, given.constraints)),
    ]
    return max(_report(what, check) for what, check in checks)


def _report(what: str, check: Callable[[], list[str]]) -> int:
    began = time.monotonic()
    problems = check()
    sys.stdout.write(f"{'FAILED' if problems else 'ok    '}  {what} ({time.monotonic() - began:.1f} s)\n")
    for problem in problems:
        sys.stdout.write(f"        {problem}\n")
    sys.stdout.flush()
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
