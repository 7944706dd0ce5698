"""Bars and sparklines."""

from __future__ import annotations

import pytest

from ibex.entrypoints.cli.charts import bar, sparkline, stacked


@pytest.mark.parametrize(
    ("value", "longest", "cells"), [(0, 10, 0), (10, 0, 0), (0.001, 10, 1), (5, 10, 12), (9, 9, 24)]
)
def test_the_length_of_a_bar_is_proportional_to_its_value(value: float, longest: float, cells: int) -> None:
    """A value above 0 is always visible."""
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
def test_the_length_of_a_stacked_bar_is_proportional_to_the_sum(
    parts: tuple[float, ...], longest: float, drawn: str
) -> None:
    """Rounding of the parts does not change the total length."""
    assert stacked(list(zip("abc", parts, strict=True)), longest) == drawn


def test_a_sparkline_shows_the_height_of_its_values() -> None:
    """Small values have the lowest step, and 0 has a dot."""
    assert sparkline([0, 1, 50, 100]) == "·▁▅█"
    assert sparkline([0, 0]) == "··"
    assert sparkline([]) == ""
    assert sparkline([7]) == "█"
