"""Bars and lines."""

from __future__ import annotations

import pytest

from ibex.entrypoints.cli.charts import bar, sparkline, stacked


@pytest.mark.parametrize(
    ("value", "longest", "cells"), [(0, 10, 0), (10, 0, 0), (0.001, 10, 1), (5, 10, 12), (9, 9, 24)]
)
def test_a_bar_is_as_long_as_its_value(value: float, longest: float, cells: int) -> None:
    """What is not 0 can be seen."""
    assert len(bar(value, longest)) == cells


@pytest.mark.parametrize(
    ("parts", "longest", "drawn"),
    [
        ((6, 6, 12), 24, "a" * 6 + "b" * 6 + "c" * 12),
        ((6, 0, 6), 24, "a" * 6 + "c" * 6),
        ((0.01, 5, 18.99), 24, "b" * 5 + "c" * 19),
        ((0, 0, 0), 0, ""),
    ],
)
def test_a_bar_of_parts_is_as_long_as_their_sum(parts: tuple[float, ...], longest: float, drawn: str) -> None:
    """Each part in its place, however they are rounded."""
    assert stacked(list(zip("abc", parts, strict=True)), longest) == drawn


def test_a_line_is_as_high_as_its_values() -> None:
    """The lowest step is for what is little, and nothing is another thing than little."""
    assert sparkline([0, 1, 50, 100]) == "·▁▅█"
    assert sparkline([0, 0]) == "··"
    assert sparkline([]) == ""
    assert sparkline([7]) == "█"
