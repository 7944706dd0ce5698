"""A line of the gate: a figure, its limit, and whether it passes; and all lines as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD: Final = ("", "what", "measured", "limit", "note")
_GREEN, _RED, _PLAIN = "\033[32m", "\033[31m", "\033[0m"


@dataclass(frozen=True, slots=True)
class Line:
    """``figure`` and ``limit`` are for people, with units; ``value`` is the number alone, None if there is none."""

    what: str
    figure: str
    limit: str
    passed: bool
    note: str = ""
    value: float | None = None


def at_most(what: str, value: float, limit: str, *, note: str = "", flaws: Sequence[str] = ()) -> Line:
    """Return a line that compares a figure with a limit such as ``20 ms``. NaN or a flaw does not pass."""
    most, unit = limit.split(" ", 1)
    passed = value <= float(most) and not flaws  # comparisons with NaN are false
    return Line(what, f"{_told(value)} {unit}", f"≤ {limit}", passed, _joined(flaws, note), value)


def every_one(what: str, good: int, of: int, *, note: str = "", flaws: Sequence[str] = ()) -> Line:
    """Return a line that passes if all items are good and there is at least one."""
    passed = good == of > 0 and not flaws
    return Line(what, f"{good:,} of {of:,}", "all", passed, _joined(flaws, note), good)


def broken(what: str, error: BaseException) -> Line:
    """Return the line of a failed measurement, which does not pass."""
    said = (str(error).strip().splitlines() or [""])[-1]
    return Line(what, "not measured", "", passed=False, note=f"{type(error).__name__}: {said}"[:200])


def exit_code(lines: Sequence[Line]) -> int:
    """Return 0 if there are lines and all of them pass, else 1."""
    return 0 if lines and all(line.passed for line in lines) else 1


def table_of(lines: Sequence[Line], *, colour: bool) -> str:
    """Return the lines as an aligned table, with a summary below it."""
    rows = [_HEAD, *(("pass" if line.passed else "FAIL", *_cells(line)) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if colour:
        text[1:] = [_coloured(row, passed=line.passed) for row, line in zip(text[1:], lines, strict=True)]
    failed = sum(not line.passed for line in lines)
    kept = (
        f"exit-gate: all {len(lines)} passed"
        if exit_code(lines) == 0
        else f"exit-gate: {failed} of {len(lines)} failed"
    )
    return "\n".join([*text, "", kept])


def _cells(line: Line) -> tuple[str, str, str, str]:
    return line.what, line.figure, line.limit, line.note


def _coloured(row: str, *, passed: bool) -> str:
    return f"{_GREEN if passed else _RED}{row[:4]}{_PLAIN}{row[4:]}"


def _told(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"  # noqa: PLR2004 - three digits that count


def _joined(flaws: Sequence[str], note: str) -> str:
    return "; ".join([*flaws, *([note] if note else [])])
