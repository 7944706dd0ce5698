"""Prometheus' promtool accepts the alert rules and runs their tests; each alert has tests and a runbook."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.promtool import promtool_program

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "rules.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
SCENARIOS = sorted((ROOT / "tests" / "alerts").glob("*.yaml"))
PARTS = ("What it means", "What users see", "What to check", "What to do", "If this does not help")
FIRING = re.compile(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}')
LOSSES = ("IbexExchangesLost", "IbexTracesDropped", "IbexDeadLetters", "IbexLogLinesDropped", "IbexInternalErrors")


@cache
def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def outcomes() -> set[tuple[str, bool]]:
    """Return each alert that a scenario expects, or expects not, with True and False."""
    found = set()
    for path in SCENARIOS:
        for scenario in yaml.safe_load(path.read_text())["tests"]:
            for expected in scenario.get("promql_expr_test", []):
                found.add((FIRING.fullmatch(expected["expr"])[1], bool(expected["exp_samples"])))  # type: ignore[index]
    return found


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    program = promtool_program()
    if program is None:
        pytest.skip("promtool is neither installed nor available as a Debian package (prometheus)")
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_prometheus_accepts_the_rules() -> None:
    """Expressions and templates are valid."""
    checked = promtool("check", "rules", str(RULES))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_each_scenario_raises_the_alerts_that_it_expects(path: Path) -> None:
    """The scenarios include the first loss, where a counter goes from 0 to 1, and cases without an alert."""
    ran = promtool("test", "rules", str(path))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_rule_that_never_fires_is_detected(tmp_path: Path) -> None:
    """It makes promtool fail, so that the scenarios above can fail."""
    (tmp_path / "rules.yaml").write_text(RULES.read_text().replace("fill_ratio > 0.8", "fill_ratio > 8"))
    scenarios = next(path for path in SCENARIOS if "IbexJournalAlmostFull" in path.read_text())
    (tmp_path / "test.yaml").write_text(scenarios.read_text().replace("../../deploy/rules.yaml", "rules.yaml"))
    assert promtool("test", "rules", str(tmp_path / "test.yaml")).returncode != 0


def test_each_alert_has_a_scenario_that_raises_it_and_one_that_does_not() -> None:
    """An alert without both is not tested."""
    assert outcomes() == {(name, fires) for name in alerts() for fires in (True, False)}


@pytest.mark.parametrize("name", LOSSES)
def test_the_first_loss_raises_an_alert_at_once(name: str) -> None:
    """A loss needs no time to become an alert."""
    assert "for" not in alerts()[name]
    assert "increase(" in alerts()[name]["expr"]


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    """A runbook has the five parts as its headings, and its commands are in a block."""
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("Ibex*.md")}
    assert pages.keys() == alerts().keys()
    for name, page in pages.items():
        assert page.startswith(f"# {name}\n"), name
        _, *parts = re.split(r"^## (.*)$", page, flags=re.MULTILINE)
        assert tuple(parts[::2]) == PARTS, name
        assert "\n    " in parts[2 * PARTS.index("What to check") + 1], name
        for link in re.findall(r"\]\(([^)#]+)\)", page):
            assert (RUNBOOKS / link).exists(), f"{name}: {link}"


def test_each_alert_names_its_severity_and_its_runbook() -> None:
    """The path can be replaced by a URL with the external label ``ibex_runbooks``."""
    prefix = "{{ with $externalLabels.ibex_runbooks }}{{ . }}{{ else }}docs/runbooks{{ end }}"
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert rule["annotations"]["runbook_url"] == f"{prefix}/{name}.md"
        assert rule["annotations"]["summary"], name
        assert rule["annotations"]["description"], name


def test_the_page_of_metrics_lists_each_alert() -> None:
    """The page and the rules name the same alerts."""
    page = (ROOT / "docs" / "metrics.md").read_text().split("## Alerts")[1]
    assert set(re.findall(r"\[(Ibex\w+)\]\(runbooks/\1\.md\)", page)) == alerts().keys()


def test_the_index_of_runbooks_lists_each_alert_with_its_severity() -> None:
    """Somebody who is called at night finds the page and its urgency in one list."""
    rows = re.findall(r"^\| \[(Ibex\w+)\]\(\1\.md\) \| (\w+) \|", (RUNBOOKS / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == len(alerts())
    assert dict(rows) == {name: rule["labels"]["severity"] for name, rule in alerts().items()}
