"""The suite of stages drives by hand only what does not wait, and its table judges by the median."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from benchmarks.stages.scene import driven
from benchmarks.stages.table import markdown_of, rows_of, table_of


def measured(name: str, median_us: float, group: str = "1", **extra_info: str) -> dict[str, Any]:
    """Return what pytest-benchmark writes of one benchmark, as far as it is read."""
    stats = {"min": median_us / 2e6, "median": median_us / 1e6, "q3": median_us * 2 / 1e6}
    return {"name": name, "group": group, "stats": stats, "extra_info": extra_info}


def test_a_median_over_its_limit_is_told() -> None:
    """Limits are found by the benchmark's name; what has none is not judged."""
    slow, quick, free = ("test_inject_at_10_messages[a]", 41), ("test_inject_at_10_messages[b]", 39), ("test_free", 99)
    rows = rows_of({"benchmarks": [measured(*one) for one in (slow, quick, free)]})

    assert [row[-2:] for row in rows] == [("40", "OVER"), ("40", "within"), ("", "")]


def test_groups_stand_together_in_their_order() -> None:
    """However the files are called."""
    told = {"benchmarks": [measured("test_b", 1, "2"), measured("test_a", 1, "1"), measured("test_c", 1, "2")]}

    assert [row[0] for row in rows_of(told)] == ["a", "b", "c"]
    assert table_of(told).splitlines()[1].split() == ["stage", "least", "median", "3rd", "quartile", "limit"]


def test_the_page_says_of_which_commit_it_is() -> None:
    """A table without that is of no use; one of changed files says so."""
    told = {
        "benchmarks": [measured("test_inject", 12)],
        "datetime": "2026-01-02T03:04:05",
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "machine_info": {"python_version": "3.11.7", "cpu": {"brand_raw": "A Processor"}},
    }
    page = markdown_of(told)

    assert page.startswith("2026-01-02, commit 0123456789ab with changes; A Processor, Python 3.11.7.")
    assert "| inject | 6.00 | 12.00 | 24.00 | 40 | within |" in page.splitlines()


def test_an_empty_turn_is_taken_off() -> None:
    """In a line of its own, beside the figure as it was measured."""
    rows = rows_of({"benchmarks": [measured("test_empty", 10), measured("test_settle", 25, less="test_empty")]})

    assert [row[2] for row in rows] == ["10.00", "25.00", "15.00"]


def test_what_does_not_wait_is_driven_to_its_end() -> None:
    """Its value comes back, and what it raises is raised."""

    async def value() -> int:
        return 7

    async def fails() -> None:
        raise KeyError

    assert driven(value)() == 7
    with pytest.raises(KeyError):
        driven(fails)()


def test_what_waits_after_all_is_no_measurement() -> None:
    """A cache that went to fetch must not pass for one that hit."""
    with pytest.raises(RuntimeError, match="waits"):
        driven(lambda: asyncio.sleep(0))()
