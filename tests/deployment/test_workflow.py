"""The workflow that checks each change."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

import msgspec

from harness.deployment import compose
from harness.validators import ROOT, run, validator

PATH: Final = ROOT / ".github" / "workflows" / "ci.yml"
JOBS: Final[dict[str, Any]] = msgspec.yaml.decode(PATH.read_bytes())["jobs"]


def commands(job: str) -> str:
    """Return what a job runs."""
    return "\n".join(step.get("run", "") for step in JOBS[job]["steps"])


def test_the_linter_accepts_the_workflow() -> None:
    """It knows the syntax, the expressions and the contexts of GitHub Actions."""
    assert run(validator("actionlint"), "-no-color", str(PATH)) == (0, "")


def test_every_supported_python_is_tested() -> None:
    """The metadata of the package names the same versions."""
    versions = JOBS["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))

    assert versions == named == ["3.11", "3.12", "3.13", "3.14"]
    assert project["requires-python"] == f">={versions[0]}"


def test_the_workflow_runs_what_anyone_can_run() -> None:
    """Targets of the Makefile exist."""
    asked = re.findall(r"\bmake ([\w-]+)", "\n".join(commands(job) for job in JOBS))
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert {"check", "validators", "test"} <= set(asked) <= set(targets)


def test_tests_run_against_the_clickhouse_server_of_the_stack() -> None:
    """The embedded engine stands in for it elsewhere."""
    job = JOBS["clickhouse"]

    assert job["services"]["clickhouse"]["image"] == compose()["services"]["clickhouse"]["image"]
    assert "IBEX_TEST_CLICKHOUSE_URL" in job["env"]


def test_no_job_can_write_or_run_for_ever() -> None:
    """A token that can only read is of no use to a changed dependency."""
    workflow = msgspec.yaml.decode(PATH.read_bytes())

    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in JOBS.values())
