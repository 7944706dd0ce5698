"""The page about phase 2 names every milestone, and only files and tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "phase-2.md").read_text()
FILES = sorted(set(re.findall(r"`((?:src|tests|benchmarks|alembic)/[\w/.]+\.(?:py|sql))", PAGE)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
MILESTONES = [
    *("2.1.1", "2.1.2", "2.1.3", "2.1.4", "2.1.5", "2.2.1", "2.2.2", "2.3.1", "2.3.2", "2.3.3"),
    *("2.4.1", "2.4.2", "2.4.3", "2.5.1", "2.5.2", "2.5.3", "2.6.1", "2.6.2"),
]


@cache
def names_in(path: str) -> set[str]:
    """Return the names of the tests in a file, those of its classes included."""
    defined = ast.walk(ast.parse((ROOT / path).read_text()))
    functions = (node.name for node in defined if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for name in functions if name.startswith("test_")}


def rows() -> list[list[str]]:
    """Return the cells of every row below the head of a table."""
    lines = [
        line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| milestone", "| crit"))
    ]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_file_that_the_page_names_exists() -> None:
    """A reader can open each."""
    assert FILES
    assert [path for path in FILES if not (ROOT / path).is_file()] == []


def test_every_test_that_the_page_names_exists() -> None:
    """A row must not claim a behaviour without a test."""
    assert TESTS
    assert [f"{path}::{name}" for path, name in TESTS if name not in names_in(path)] == []


def test_every_row_names_a_file_a_test_and_a_figure() -> None:
    """Each milestone has one row, and so has each criterion of the exit gate."""
    assert [cells[0].split()[0] for cells in rows() if cells[0][0].isdigit()] == MILESTONES
    for cells in rows():
        assert re.search(r"`[\w/.]+\.(py|sql)`", cells[1]), cells
        assert "`tests/" in cells[2], cells
        assert cells[-1], cells
