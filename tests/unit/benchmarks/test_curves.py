"""The curves of a run as pictures of the documentation, also if peers or measurements are missing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from benchmarks import curves
from tools.site.other_hosts import loaded_from_other_hosts

if TYPE_CHECKING:
    from pathlib import Path

PAGE = f"# Figures\n\nBefore.\n\n{curves.BEGIN}\n\nold\n\n{curves.END}\n\nAfter.\n"


def _run(ms: float) -> dict[str, Any]:
    return {
        "cpu_us": ms * 100,
        "p50_ms": ms,
        "p99_ms": ms * 4,
        "curve": {"0.0": ms / 2, "50.0": ms, "99.0": ms * 4},
        "cpu": {"groups": {"provider": 0.1}, "others": 0.0, "wall_s": 2.0, "machine_s": 0.1},
    }


def _results(*peers: str) -> dict[str, Any]:
    """Return a run in which IBEX takes four times as long as each peer."""

    def runs(own: str) -> dict[str, Any]:
        return {
            "provider alone": [_run(0.25)],
            own: [_run(1.0), _run(3.0)],
            **{name: [_run(0.5), _run(0.5)] for name in peers},
        }

    return {
        "about": {
            "date": "2026-01-02 03:04 UTC",
            "commit": "c" * 40 + " with changes",
            "cores": 2,
            "processor": "a processor",
            "system": "a system",
            "installation": "IBEX as its users install it, Python 3.11.2, an optimized build",
        },
        "quick": False,
        "rounds": 2,
        "connections": 100,
        "closed_loop_by": "wrk",
        "missing": [name for name in ("nginx", "LiteLLM") if name not in peers],
        "failed": [],
        "closed": {"runs": runs("IBEX, 1 worker")},
        "paced": {"in_flight": 100, "runs": runs("IBEX, 2 workers")},
        "streams": {"streams_with_peers": 50, "events_a_second": 20, "runs": {}, "peers": runs("IBEX, 1 worker")},
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the page that shows the curves."""
    (tmp_path / curves.PAGE).parent.mkdir()
    (tmp_path / curves.PAGE).write_text(PAGE)
    (tmp_path / curves.MEASURED).parent.mkdir(parents=True)
    return tmp_path


def _draw(checkout: Path, results: dict[str, Any]) -> list[str]:
    (checkout / curves.MEASURED).write_text(json.dumps(results))
    return curves.write(checkout)


def test_each_curve_is_a_picture_that_needs_nothing_else(checkout: Path) -> None:
    """It is well-formed, has its own colours for light and dark, and loads no font."""
    names = _draw(checkout, _results("nginx", "LiteLLM"))

    assert names == [f"docs/pictures/{curve.name}.svg" for curve in curves.CURVES]
    for name in names:
        picture = (checkout / name).read_text()
        assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own output
        assert "prefers-color-scheme: dark" in picture
        assert all(f">{target}<" in picture for target in ("nginx", "LiteLLM"))
        assert not loaded_from_other_hosts(picture)
        assert not re.search(r"url\(|nan", picture)


def test_every_class_of_a_picture_has_a_style(checkout: Path) -> None:
    """A mark without one is black, which the dark card hides."""
    for name in _draw(checkout, _results("nginx")):
        _, _, rest = (checkout / name).read_text().partition("<style>")
        style, _, marks = rest.partition("</style>")
        used = {one for classes in re.findall(r'class="([^"]+)"', marks) for one in classes.split()}
        assert used
        assert {one for one in used if not re.search(rf"\.{one}\b", style)} == set()


def test_the_page_names_the_run_and_its_ratios_to_nginx(checkout: Path) -> None:
    """A reader sees when, on what and by which command it was measured. The names of the machine are left out."""
    _draw(checkout, _results("nginx"))
    page = (checkout / curves.PAGE).read_text()
    text = " ".join(page.split())

    assert (page.startswith("# Figures\n\nBefore.\n"), page.endswith("\n\nAfter.\n"), "old" in page) == (
        True,
        True,
        False,
    )
    assert "2026-01-02 03:04 UTC by `make bench` at commit `cccccccccccc` with changes, on 2 cores" in text
    assert "Python 3.11.2" in text
    assert "Medians of 2 rounds" in text
    assert "Not installed: LiteLLM." in text
    assert "IBEX, 1 worker: 200 µs; 4.00 times nginx's." in text
    assert "IBEX, 2 workers: p50 2.00 ms, p99 8.00 ms; 4.00 and 4.00 times nginx's." in text
    assert not re.search("a processor|a system", text)
    for curve in curves.CURVES:
        assert re.search(rf"!\[[^]]{{30,}}\]\(pictures/{curve.name}\.svg\)", page)


def test_drawing_the_same_run_again_changes_nothing(checkout: Path) -> None:
    """So a difference in the repository is one of the measurements."""
    names = [*_draw(checkout, _results("nginx")), str(curves.PAGE)]
    first = [(checkout / name).read_text() for name in names]
    _draw(checkout, _results("nginx"))

    assert [(checkout / name).read_text() for name in names] == first


def test_a_run_without_peers_is_drawn(checkout: Path) -> None:
    """The page says that there is no ratio."""
    _draw(checkout, _results())
    text = " ".join((checkout / curves.PAGE).read_text().split())

    assert "Not installed: nginx, LiteLLM." in text
    assert "IBEX, 1 worker: 200 µs; nginx was not measured." in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quick": True}, "is of a quick run.*without --quick"),
        ({"paced": None}, "no measurement of IBEX in: paced.*Run make bench with all sections"),
        ({"closed": {"runs": {"nginx": [_run(1.0)]}}}, "no measurement of IBEX in: closed"),
        (
            {"streams": None, "failed": ["streams: it broke", "soak: another"]},
            "in: streams. Make bench reported: streams: it broke. Run",
        ),
    ],
    ids=["quick", "a-section", "ibex", "failed"],
)
def test_a_run_without_a_measurement_leaves_the_old_curves(
    checkout: Path, changes: dict[str, Any], message: str
) -> None:
    """All curves of the page are of one run. The message names what is missing, and the command."""
    with pytest.raises(curves.CurvesError, match=message):
        _draw(checkout, {**_results("nginx"), **changes})

    assert (checkout / curves.PAGE).read_text() == PAGE
    assert not (checkout / curves.PICTURES).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist. Run make bench"),
        ("{", "is not JSON"),
        ("[]", "is not of this version of make bench"),
        ("{}", "is not of this version of make bench .*quick.*. Run make bench"),
    ],
)
def test_results_that_cannot_be_read_are_reported(checkout: Path, content: str | None, message: str) -> None:
    """The results are not in the repository, so a fresh clone has none."""
    if content is not None:
        (checkout / curves.MEASURED).write_text(content)

    with pytest.raises(curves.CurvesError, match=message):
        curves.write(checkout)


@pytest.mark.parametrize("comment", [curves.BEGIN, curves.END])
def test_a_page_without_its_comments_is_reported(checkout: Path, comment: str) -> None:
    """The rest of the page is written by people."""
    (checkout / curves.PAGE).write_text(PAGE.replace(comment, ""))

    with pytest.raises(curves.CurvesError, match=re.escape(f"lacks the comment '{comment}'")):
        _draw(checkout, _results("nginx"))


def test_the_page_of_the_repository_has_the_comments() -> None:
    """``make curves`` finds where to write."""
    assert "text" in curves.with_section(curves.ROOT / curves.PAGE, "text")


def test_a_missing_page_is_reported(checkout: Path) -> None:
    """The message says where to get it."""
    (checkout / curves.PAGE).unlink()

    with pytest.raises(curves.CurvesError, match=r"figures\.md does not exist. Restore it from git."):
        _draw(checkout, _results("nginx"))
