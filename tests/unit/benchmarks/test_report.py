"""The goals, tables and HTML page of a benchmark run, also if measurements are missing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from benchmarks.proxy import svg
from benchmarks.proxy.about import installed
from benchmarks.proxy.gateways import ENVOY, FERRO, GATEWAYS, LITELLM, PORTKEY
from benchmarks.proxy.generator import curve, percentile
from benchmarks.proxy.goals import BESIDES, NOT_MEASURED, goals_of
from benchmarks.proxy.profile import REST, read_profile
from benchmarks.proxy.report import write_report
from benchmarks.proxy.stages import measure_stages, read_stages, target_us
from benchmarks.proxy.switches import INVOLUNTARY, VOLUNTARY
from benchmarks.proxy.tables import all_tables, closed_table, disturbance, machine_uses, paced_table, streams_table
from benchmarks.proxy.turns import in_turns

if TYPE_CHECKING:
    from pathlib import Path

_CURVE = {"0.0": 1.0, "50.0": 2.0, "99.0": 9.0}


def _cpu(proxy: str) -> dict[str, Any]:
    groups = {proxy: 1.0, "PostgreSQL": 0.5, "provider": 0.25, "load generator": 0.25}
    return {"groups": groups, "others": 0.1, "wall_s": 2.0, "machine_s": 2.1}


def _closed(name: str, rate: float) -> list[dict[str, Any]]:
    run = {"rate": rate, "p50_ms": 2.0, "p99_ms": 9.0, "failed": 0, "curve": _CURVE, "cpu_us": 90.0, "memory_mb": 99.0}
    return [{**run, "cpu": _cpu(name)}, {**run, "rate": rate * 1.2, "cpu": _cpu(name)}]


def _results(**sections: Any) -> dict[str, Any]:
    about = {
        "date": "2026-01-02",
        "commit": "c" * 40,
        "cores": 2,
        "processor": "any",
        "memory_gb": 4,
        "system": "Linux",
    }
    results = {
        "about": {**about, "installation": "IBEX", "load_before": 0.1, "versions": {"Python": "3"}},
        "quick": False,
        "rounds": 2,
        "connections": 100,
        "closed_loop_by": "wrk",
        "missing": ["LiteLLM"],
        "settings": {"nginx": "1 worker", "Portkey": "--headless"},
        "failed": [],
        **sections,
    }
    return {**results, "goals": goals_of(results)}


def _all_sections() -> dict[str, Any]:
    names = {"provider alone": 90_000, "IBEX, 1 worker": 10_000, "IBEX, 2 workers": 18_000, "nginx": 30_000}
    names["Portkey"] = 2_500
    stages = {"auth": {"p50_ms": 0.1, "p99_ms": 0.2}}
    paced = {"a_second": 400, "p50_ms": 1.0, "p99_ms": 4.0, "worst_ms": 9.0, "late_p99_ms": 0.1, "failed": 0}
    paced["cpu_us"] = 300.0
    stream = {"p50_ms": 1.0, "p99_ms": 4.0, "first_p50_ms": 1.0, "first_p99_ms": 3.0, "whole": 5, "streams": 5}
    both = ("provider alone", "IBEX, 2 workers")
    nginx = {**paced, "p50_ms": 0.5, "p99_ms": 1.0, "cpu_us": 30.0, "curve": _CURVE, "cpu": _cpu("nginx")}
    size = {"1 MB": {"p50_ms": 3.0}, "10 MB": {"p50_ms": 30.0}}
    one = {"until_s": 10.0, "rate": 9.0, "p50_ms": 1.0, "p99_ms": 2.0, "failed": 0, "requests": 90, "memory_mb": 100.0}
    return {
        "closed": {"cores": 2, "runs": {name: _closed(name, rate) for name, rate in names.items()}},
        "profile": {"samples": 9, "parts": {"journal": 0.6, REST: 0.4}, "functions": {"f (g.py)": 0.5}},
        "paced": {
            "in_flight": 100,
            "runs": {name: [{**paced, "curve": _CURVE, "cpu": _cpu(name), "stages": stages}] for name in both}
            | {"nginx": [nginx]},
        },
        "switches": {
            "a_second": 400.0,
            "per_request": {
                "event loop": {VOLUNTARY: 4.0, INVOLUNTARY: 0.5},
                "writer": {VOLUNTARY: 2.0, INVOLUNTARY: 0.0},
            },
            "quiet_per_s": {"event loop": {VOLUNTARY: 3.0, INVOLUNTARY: 0.0}},
            "calls": None,
            "all_calls": None,
        },
        "streams": {
            "streams": 500,
            "events_a_second": 50,
            "streams_with_peers": 2,
            "runs": {name: [{**stream, "curve": _CURVE, "cpu": _cpu(name)}] for name in both},
            "peers": {name: [{**stream, "curve": _CURVE, "cpu": _cpu(name)}] for name in both},
        },
        "sizes": {"runs": {"provider alone": [size], "IBEX, 1 worker": [size]}},
        "idle": {"idle": 10, "before": {"cpu_us": 100.0}, "after": {"cpu_us": 130.0}, "afresh": {"cpu_us": 100.0}},
        "memory": {"streams": 9, "at_rest_mb": 90.0, "open_mb": 120.0},
        "soak": {"minutes": 1.0, "drained_s": 1.0, "slices": [one, {**one, "until_s": 20.0, "memory_mb": 101.0}]},
        "freshness": {
            "trace_ms": 255.0,
            "trace_note": "worst of 800",
            "changes": 3,
            "requests": 24,
            "old_directive": 0,
            "served_revoked": 1,
        },
        "organizations": {
            "organizations": 500,
            "a_second": 2_000.0,
            "seconds": 10.0,
            "turns": 20_000,
            "median_s": 0.2,
            "worst_s": 1.5,
            "drained_s": 10.2,
        },
        "starts": {"embedded_new_s": 9.0, "embedded_s": [1.0, 3.0, 1.6], "production_s": [2.5]},
        "stages": {"commit": "", "at": "now", "stages": {"test_inject": {"median_us": 50.0, "mean_us": 51.0}}},
    }


def test_each_goal_is_judged_by_its_own_target() -> None:
    """The medians decide. A goal that needs a peer that is not installed is neither met nor missed."""
    goals = _results(**_all_sections())["goals"]
    reached = {goal["what"]: goal["reached"] for goal in goals}
    now = {goal["what"]: goal["now"] for goal in goals}
    assert reached["closed loop, one worker: rate, as a multiple of Portkey's"] is False
    assert reached["closed loop, one worker: rate, as a multiple of LiteLLM's"] is None
    assert reached["start to first answer: embedded, warm folder"] is True
    assert reached["start to first answer: production"] is False
    assert reached["a trace is visible after its response: the worst"] is True
    assert reached["next requests with the old directive"] is True
    assert reached["next requests served with a revoked token"] is False
    assert reached["500 organizations, 2,000 turns/s: checkpoints behind"] is False
    assert (now["context switches per request at 400/s"], now["closed loop, 2 workers: errors"]) == ("6.50", "0")
    assert reached["stage: inject"] is False
    assert reached["CPU per request with idle sessions, tokens and agents, of that with none"] is False


@pytest.mark.parametrize(
    ("what", "now", "reached"),
    [
        ("paced 400/s: overhead p50, as a multiple of nginx's", "2.00", True),
        ("paced 400/s: overhead p99, as a multiple of nginx's", "4.00", False),
        ("paced 400/s: CPU per request, as a multiple of nginx's", "10.0", False),
        ("closed loop: CPU per request, as a multiple of nginx's", "1.00", True),
        ("closed loop, one worker: rate, as a multiple of Portkey's", "4.00", False),
    ],
)
def test_ratios_are_those_to_a_peer_of_the_same_run(what: str, now: str, *, reached: bool) -> None:
    """Machines differ, so an absolute figure says little."""
    goal = next(goal for goal in _results(**_all_sections())["goals"] if goal["what"] == what)
    assert (goal["now"].split()[0], goal["reached"]) == (now, reached)


def test_tables_give_ratios_beside_the_figures() -> None:
    """Nginx's own figures are the unit; what a stream takes beyond the same without a proxy has its sign."""
    results = _results(**_all_sections())
    closed = {row[0]: row for row in closed_table(results).rows}
    assert closed["Portkey"][4].startswith("4.00 ")
    assert closed["nginx"][3].startswith("1.00 ")
    assert closed["provider alone"][9] == ""
    paced = {row[0]: row for row in paced_table(results).rows}
    assert [paced["IBEX, 2 workers"][at].split()[0] for at in (3, 5, 9)] == ["2.00", "4.00", "10.0"]
    streams = {row[0]: row for row in streams_table(results).rows}
    assert streams["500 streams: IBEX, 2 workers"][2] == "+0.00"


@pytest.mark.parametrize(("last_mb", "reached"), [(101.0, None), (120.0, False)])
def test_a_shorter_run_than_the_goal_asks_for_can_only_miss_it(last_mb: float, *, reached: bool | None) -> None:
    """Memory that does not grow in a minute may grow in ten."""
    sections = _all_sections()
    sections["soak"]["slices"][-1]["memory_mb"] = last_mb
    goals = {goal["what"]: goal for goal in _results(**sections)["goals"]}
    growth = goals["memory of a worker after ten minutes of full load, of that at first"]
    assert (growth["reached"], "--soak-minutes 10" in growth["note"]) == (reached, True)
    assert goals["memory of a worker with 1,000 open streams"]["reached"] is None


@pytest.mark.parametrize(("floor_ms", "met"), [(1.5, True), (25.0, None)])
def test_a_negative_difference_is_reported_as_noise(floor_ms: float, met: bool | None) -> None:  # noqa: FBT001 - a parameter
    """The goal is met if the amount is within the target. Otherwise it is neither met nor missed."""
    sections = _all_sections()
    sections["streams"]["runs"]["provider alone"][0]["p50_ms"] = floor_ms
    goals = {goal["what"]: goal for goal in _results(**sections)["goals"]}
    goal = goals["streams: delay added to an event, p50"]
    assert (goal["now"], goal["reached"]) == ("within noise", met)
    assert f"without a proxy {floor_ms:.2f} ms" in goal["note"]


@pytest.mark.parametrize("quick", [True, False])
def test_the_last_table_of_a_quick_run_is_titled_as_no_record(*, quick: bool) -> None:
    """Many readers look only at the last table in the terminal."""
    title = all_tables({**_results(**_all_sections()), "quick": quick})[-1].title
    assert ("no record" in title) == quick


def test_missing_stage_benchmarks_are_reported_with_their_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The terminal and the goals name the command that measures them."""
    assert measure_stages(tmp_path, quick=True) is None
    said = capsys.readouterr()
    assert "make bench-stages has not been run" in said.out + said.err
    assert _results(stages=None)["goals"][-1]["note"] == "make bench-stages has not been run"


@dataclass(frozen=True)
class _Peer:
    package: str
    is_installed: bool


def test_versions_are_listed_for_installed_peers_only() -> None:
    """A peer that is not installed was not measured."""
    peers = {"litellm": _Peer("litellm==1", is_installed=True), "portkey": _Peer("gateway@2", is_installed=False)}
    assert installed(peers) == {"litellm": "litellm==1"}


def test_every_run_lists_the_twelve_numbers_in_order() -> None:
    """A section that was left out leaves its lines, which say so; other limits follow."""
    numbers = [goal["number"] for goal in _results()["goals"]]
    assert list(dict.fromkeys(numbers)) == [*(str(number) for number in range(1, 13)), BESIDES]
    assert {goal["now"] for goal in _results()["goals"]} == {NOT_MEASURED}
    measured = {goal["number"] for goal in _results(**_all_sections())["goals"] if goal["now"] != NOT_MEASURED}
    assert measured == set(numbers)


def test_each_peer_is_configured_in_front_of_the_provider() -> None:
    """Their files name the provider's address, and only the gateways' own placeholders are left."""
    peers = {gateway.name: gateway.peer("http://127.0.0.1:4000/v1") for gateway in GATEWAYS}
    assert list(peers) == [ENVOY, FERRO, PORTKEY, LITELLM]
    assert "{address: 127.0.0.1, port_value: 4000}" in peers[ENVOY].files["envoy.yaml"]
    assert peers[FERRO].environ["OPENAI_BASE_URL"] == "{upstream}"
    assert "gpt-paced" in peers[FERRO].files["config.yaml"]
    assert "'{upstream}'" in peers[LITELLM].files["config.yaml"]
    assert peers[LITELLM].command.endswith("--run_granian")


def test_the_page_contains_every_section_and_loads_nothing(tmp_path: Path) -> None:
    """The report is one file without scripts and links, and each chart is well-formed XML."""
    page = write_report(tmp_path / "report.html", json.loads(json.dumps(_results(**_all_sections())))).read_text()
    for title in (
        "Goals",
        "How the peers ran",
        "Context switches",
        "Changes",
        "Many organizations",
        "As fast as",
        "part by part",
        "model&#x27;s pace",
        "Streams",
        "Full load",
        "Starts",
    ):
        assert title in page
    assert not re.search(r"<script|<link|src=|https?://(?!www\.w3)", page)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) >= 10
    for chart in charts:
        ET.fromstring(chart)  # noqa: S314 - our own output
        assert "nan" not in chart


def test_a_run_without_results_still_has_a_page(tmp_path: Path) -> None:
    """The page omits sections that did not run, and lists those that failed."""
    results = {**_results(), "failed": ["closed: it broke"]}
    assert "it broke" in write_report(tmp_path / "report.html", results).read_text()
    assert all_tables(results)[-1].rows[0][3] == NOT_MEASURED


def test_processor_use_is_reported_in_cores() -> None:
    """Cores are processor time divided by wall time. Every measured proxy appears under the same name."""
    results = _results(**_all_sections())
    assert machine_uses(results)["closed loop: nginx"]["proxy"] == pytest.approx(0.5)
    assert disturbance(results) == pytest.approx(0.05)


def test_every_second_round_runs_in_reverse_order() -> None:
    """So no candidate always runs after the same other one."""
    order: list[str] = []

    def measure(name: str) -> int:
        order.append(name)
        return len(order)

    found = in_turns(["a", "b"], 3, measure)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_the_curve_ends_at_the_highest_percentile_that_has_a_value() -> None:
    """A hundred values have a 99th percentile and no 99.9th."""
    assert max(curve(range(100))) == 99.0
    assert percentile(range(100), 99) == 99
    assert percentile([], 99) != percentile([], 99)  # not a number


def test_a_profile_sample_counts_for_the_innermost_ibex_frame() -> None:
    """Library code that the journal calls counts for the journal. A stack without IBEX counts as the rest."""
    found = read_profile(
        [
            "go (/src/ibex/domain/a.py:1);put (/src/ibex/adapters/journal/b.py:2);run (/lib/python3.11/sqlite3.py:3) 3",
            "run (/lib/python3.11/asyncio/runners.py:9) 1",
        ]
    )
    assert found["parts"] == {"journal": 0.75, REST: 0.25}
    assert found["functions"] == {"run (3.11/sqlite3.py)": 0.75, "run (3.11/asyncio/runners.py)": 0.25}


def test_stage_results_are_read_in_microseconds(tmp_path: Path) -> None:
    """pytest-benchmark's file contains seconds. Without the file the result is None."""
    assert read_stages(tmp_path) is None
    told = {"datetime": "now", "benchmarks": [{"name": "test_inject", "stats": {"median": 2e-5, "mean": 3e-5}}]}
    (tmp_path / "stages.json").write_text(json.dumps(told))
    stages = read_stages(tmp_path)
    assert stages is not None
    assert stages["stages"]["test_inject"]["median_us"] == pytest.approx(20)
    assert (target_us("test_inject[10]"), target_us("test_journal")) == (40.0, None)


@pytest.mark.parametrize("most", [0.004, 0.7, 1.0, 6.3, 97.0, 12_345.0])
def test_a_linear_axis_covers_its_values(most: float) -> None:
    """Every value is placed between 0 and 1, and the axis has at most eight ticks."""
    axis = svg.linear([most], "any")
    assert 0.5 < axis.place(most) <= 1
    assert len(axis.ticks) <= 8


def test_a_logarithmic_axis_accepts_zero_and_a_single_decade() -> None:
    """Both values are placed between 0 and 1, in their order."""
    axis = svg.logarithmic([0.0, 10.0], "any")
    assert 0 <= axis.place(0.0) <= axis.place(10.0) <= 1
