"""The page of fault tests names only tests that exist, and covers every file of fault tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fault-tests.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def names_in(path: str) -> set[str]:
    """Return the names of the tests in a file, those of its classes included."""
    defined = ast.walk(ast.parse((ROOT / path).read_text()))
    functions = (node.name for node in defined if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for name in functions if name.startswith("test_")}


def test_every_test_that_the_page_names_exists() -> None:
    """A row must not claim a behaviour without a test."""
    assert NAMED
    missing = [f"{path}::{name}" for path, name in NAMED if name not in names_in(path)]
    assert missing == []


def test_every_file_of_fault_tests_is_on_the_page() -> None:
    """A reader who looks for a fault finds its tests on the page."""
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert files - {path for path, _ in NAMED} == set()
