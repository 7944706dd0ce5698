"""Tests of the setting of the base path."""

from __future__ import annotations

import pytest

from ibex.entrypoints.settings import Settings, SettingsError


def test_there_is_none_by_default() -> None:
    """Paths have no prefix."""
    assert Settings().base_path == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/gateway", "/gateway"), ("/gateway/", "/gateway"), ("/a/b-c_d.e~1", "/a/b-c_d.e~1"), ("/", "")],
)
def test_a_base_path(value: str, expected: str) -> None:
    """A slash at the end makes no difference."""
    assert Settings.load({"IBEX_BASE_PATH": value}).base_path == expected


@pytest.mark.parametrize("value", ["gateway", "//", "/a//b", "/a b", "/ü", "/a%20b", "/..", "/a/./b", "/a?b", "/{org}"])
def test_an_invalid_base_path(value: str) -> None:
    """The message shows an example."""
    with pytest.raises(SettingsError, match=r"IBEX_BASE_PATH is .*; allowed: a path such as /gateway"):
        Settings.load({"IBEX_BASE_PATH": value})
