"""Numbers to look at, in one line of a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

CELLS: Final = 24
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_NOTHING: Final = "·"


def bar(value: float, longest: float) -> str:
    """Return a bar as long as the value is of the longest; what is not 0 can be seen."""
    return "▇" * max(1, round(CELLS * value / longest)) if longest > 0 and value > 0 else ""


def stacked(parts: Sequence[tuple[str, float]], longest: float) -> str:
    """Return a bar of parts, each in its own character; a part that is too short for half a cell is not seen."""
    if longest <= 0:
        return ""
    drawn, done = "", 0.0
    for character, value in parts:
        done += value
        drawn += character * (round(CELLS * done / longest) - len(drawn))
    return drawn


def sparkline(values: Sequence[float]) -> str:
    """Return a character a value, as high as it is of the highest; a point for 0."""
    highest = max(values, default=0)
    return "".join(_LEVELS[round((len(_LEVELS) - 1) * value / highest)] if value > 0 else _NOTHING for value in values)
