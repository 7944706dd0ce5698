"""Bars and sparklines: numbers drawn in one line of a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

CELLS: Final = 24
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_ZERO: Final = "·"


def bar(value: float, longest: float) -> str:
    """Return a bar of ``CELLS`` characters for ``longest``, and in proportion for less. Only 0 has no character."""
    return "▇" * max(1, round(CELLS * value / longest)) if longest > 0 and value > 0 else ""


def stacked(parts: Sequence[tuple[str, float]], longest: float) -> str:
    """Return a bar with a segment for each part, in its character. A part shorter than half a cell can be invisible."""
    if longest <= 0:
        return ""
    drawn, done = "", 0.0
    for character, value in parts:
        done += value
        drawn += character * (round(CELLS * done / longest) - len(drawn))
    return drawn


def sparkline(values: Sequence[float]) -> str:
    """Return a character for each value, with a height in proportion to the highest value, and a dot for 0."""
    highest = max(values, default=0)
    return "".join(_LEVELS[round((len(_LEVELS) - 1) * value / highest)] if value > 0 else _ZERO for value in values)
