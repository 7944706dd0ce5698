"""The targets of the Makefile: what they install, read from ``make --dry-run``, and their list in ``make help``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN, DEVELOP = "'.[embedded]'", "'.[dev]'"
INSTALLERS = pytest.mark.parametrize("uv", ["", "uv"], ids=["pip", "uv"])


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of a fresh clone that ``make`` reads."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    requirements = tmp_path / "tests" / "deployment" / "requirements.txt"
    requirements.parent.mkdir(parents=True)
    shutil.copy2(ROOT / "tests" / "deployment" / "requirements.txt", requirements)
    (tmp_path / ".venv-deploy").mkdir()
    (tmp_path / ".venv-deploy" / ".installed").touch()
    (tmp_path / "release").mkdir()
    shutil.copy2(ROOT / "release" / "tools.txt", tmp_path / "release")
    return tmp_path


def would_run(clone: Path, target: str, uv: str, *variables: str) -> str:
    """Return the commands of a target."""
    return make(clone, "--dry-run", f"UV={uv}", target, *variables)


def make(clone: Path, *arguments: str) -> str:
    """Return the output of ``make`` as in a pipe, also if these tests run under ``make`` on a terminal."""
    environ = {name: value for name, value in os.environ.items() if name not in {"MAKE_TERMOUT", "NO_COLOR"}}
    done = subprocess.run(["make", *arguments], cwd=clone, env=environ, capture_output=True, text=True, check=True)
    return done.stdout


def installed(clone: Path, *stamps: str) -> None:
    """Create the stamp files that an installation leaves."""
    for stamp in stamps:
        (clone / ".venv" / stamp).touch()


@INSTALLERS
@pytest.mark.parametrize(
    ("target", "wanted", "other"), [("run", RUN, DEVELOP), ("test", DEVELOP, RUN), ("check", DEVELOP, RUN)]
)
def test_each_target_installs_its_own_dependencies(clone: Path, uv: str, target: str, wanted: str, other: str) -> None:
    """Running needs fewer packages than development."""
    commands = would_run(clone, target, uv)

    assert wanted in commands
    assert other not in commands
    (install,) = [line for line in commands.splitlines() if wanted in line]
    assert install.startswith("uv pip install" if uv else ".venv/bin/python -m pip install")


@INSTALLERS
@pytest.mark.parametrize("target", ["run", "test"])
def test_the_installer_shows_its_progress_on_a_terminal_only(clone: Path, uv: str, target: str) -> None:
    """It takes a while, but its hundred lines do not belong in a log."""
    wanted = RUN if target == "run" else DEVELOP
    for terminal, is_quiet in (("/dev/pts/0", False), ("", True)):
        commands = would_run(clone, target, uv, f"MAKE_TERMOUT={terminal}")
        (install,) = [line for line in commands.splitlines() if wanted in line]

        assert ("--quiet" in install) is is_quiet


def test_help_lists_each_target_once_in_a_group(clone: Path) -> None:
    """A target whose comment names no group, or an unknown one, would be missing."""
    targets = re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    printed = make(clone, "help")

    assert sorted(re.findall(r"^  (\S+) +\S", printed, re.MULTILINE)) == sorted(targets)
    assert re.findall(r"^(\w+):$", printed, re.MULTILINE) == ["use", "develop", "measure", "release"]


def test_the_texts_of_help_are_aligned(clone: Path) -> None:
    """They begin in the same column."""
    targets = [line for line in make(clone, "help").splitlines() if line.startswith("  ")]

    assert len({re.match(r"  \S+ +", line).end() for line in targets}) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [(["MAKE_TERMOUT=/dev/pts/0"], True), ([], False), (["MAKE_TERMOUT=/dev/pts/0", "NO_COLOR=1"], False)],
)
def test_help_has_colours_on_a_terminal_only(clone: Path, variables: list[str], is_coloured: bool) -> None:  # noqa: FBT001
    """Escape codes do not go into a pipe, nor to a terminal with NO_COLOR."""
    assert ("\033" in make(clone, "help", *variables)) is is_coloured


@INSTALLERS
def test_run_after_test_needs_no_pip(clone: Path, uv: str) -> None:
    """The development dependencies include those for running."""
    assert "touch .venv/.installed .venv/.installed-to-run" in would_run(clone, "test", uv)
    installed(clone, ".installed", ".installed-to-run")

    assert "install" not in would_run(clone, "run", uv)
    assert "pip install" not in would_run(clone, "test", uv)


def test_all_tests_install_the_validators_and_some_do_not(clone: Path) -> None:
    """The validators check the files of ``deploy``, and no other test needs them."""
    (clone / ".venv-deploy" / ".installed").unlink()
    installed(clone, ".installed", ".installed-to-run")

    assert ".venv-deploy" in would_run(clone, "test", "")
    assert ".venv-deploy" not in would_run(clone, "test", "", "ARGS=-k name")


@INSTALLERS
def test_test_after_run_adds_the_missing_dependencies(clone: Path, uv: str) -> None:
    """Both use the same environment."""
    installed(clone, ".installed-to-run")

    assert "install" not in would_run(clone, "run", uv)
    assert DEVELOP in would_run(clone, "test", uv)


@pytest.mark.parametrize(
    ("target", "program"),
    [
        ("audit", "release/audit.py constraints.txt"),
        ("sbom", '-m release.bill_of_materials ""'),
        ("release-check", "-m release.check"),
    ],
)
def test_a_release_is_checked_in_an_environment_of_its_own(clone: Path, target: str, program: str) -> None:
    """Its tools are no dependencies of developing."""
    commands = would_run(clone, target, "")

    assert "pip install --quiet --disable-pip-version-check --requirement release/tools.txt" in commands
    assert f".venv-release/bin/python {program}" in commands
    assert DEVELOP not in commands


def test_the_lock_file_of_deployment_is_audited_if_it_exists(clone: Path) -> None:
    """It names what a deployment installs."""
    (clone / "deploy").mkdir()
    (clone / "deploy" / "requirements.lock").touch()

    assert "release/audit.py deploy/requirements.lock" in would_run(clone, "audit", "")
