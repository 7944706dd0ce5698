"""The stage benchmarks: running coroutines that must not wait, and the table of medians."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from benchmarks.stages.scene import driven
from benchmarks.stages.table import markdown_of, rows_of, table_of


def measured(name: str, median_us: float, group: str = "1", **extra_info: str) -> dict[str, Any]:
    """Return the fields of one benchmark in pytest-benchmark's output that the table reads."""
    stats = {"min": median_us / 2e6, "median": median_us / 1e6, "q3": median_us * 2 / 1e6}
    return {"name": name, "group": group, "stats": stats, "extra_info": extra_info}


def test_a_median_over_its_limit_is_marked() -> None:
    """The name of the benchmark selects its limit. A benchmark without a limit is not judged."""
    slow, quick, free = ("test_inject_at_10_messages[a]", 41), ("test_inject_at_10_messages[b]", 39), ("test_free", 99)
    rows = rows_of({"benchmarks": [measured(*one) for one in (slow, quick, free)]})

    assert [row[-2:] for row in rows] == [("40", "OVER"), ("40", "within"), ("", "")]


def test_rows_are_sorted_by_group() -> None:
    """The order of the benchmarks in the file does not matter between groups."""
    told = {"benchmarks": [measured("test_b", 1, "2"), measured("test_a", 1, "1"), measured("test_c", 1, "2")]}

    assert [row[0] for row in rows_of(told)] == ["a", "b", "c"]
    assert table_of(told).splitlines()[1].split() == ["stage", "least", "median", "3rd", "quartile", "limit"]


def test_the_page_names_its_commit() -> None:
    """It also says whether the tree had uncommitted changes."""
    told = {
        "benchmarks": [measured("test_inject", 12)],
        "datetime": "2026-01-02T03:04:05",
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "machine_info": {"python_version": "3.11.7", "cpu": {"brand_raw": "A Processor"}},
    }
    page = markdown_of(told)

    assert page.startswith("2026-01-02, commit 0123456789ab with changes; A Processor, Python 3.11.7.")
    assert "| inject | 6.00 | 12.00 | 24.00 | 40 | within |" in page.splitlines()


def test_the_duration_of_an_empty_turn_is_subtracted_in_its_own_row() -> None:
    """The row before it shows the figure as measured."""
    rows = rows_of({"benchmarks": [measured("test_empty", 10), measured("test_settle", 25, less="test_empty")]})

    assert [row[2] for row in rows] == ["10.00", "25.00", "15.00"]


def test_a_coroutine_that_does_not_wait_runs_to_its_end() -> None:
    """The call returns its value, or raises its exception."""

    async def value() -> int:
        return 7

    async def fails() -> None:
        raise KeyError

    assert driven(value)() == 7
    with pytest.raises(KeyError):
        driven(fails)()


def test_a_coroutine_that_waits_raises() -> None:
    """Otherwise a cache miss with a fetch could be measured as a hit."""
    with pytest.raises(RuntimeError, match="waits"):
        driven(lambda: asyncio.sleep(0))()
