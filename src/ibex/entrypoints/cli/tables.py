"""Tables that fit the terminal: a row that is too wide continues on further lines, and no cell is cut.

Most cells are ids. A cell that is cut or folded could not be copied.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_GAP: Final = 2
_INDENT: Final = "    "


def terminal_width() -> int | None:
    """Return the width of the terminal in columns. None if there is no terminal: programs get one line per row."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    headings: Mapping[str, str], rows: Sequence[Mapping[str, str]], width: int | None, spare: Collection[str] = ()
) -> Iterator[str]:
    """Yield the lines of a table, headings first. Each row has as many lines as the headings.

    ``headings`` maps names of columns to headings. ``width`` is the maximum width, None for no maximum. Columns in
    ``spare`` are omitted if the width is not enough for all columns.
    """
    columns = Columns(headings, rows, width, spare)
    for row in (headings, *rows):
        yield from columns.lines(row)


class Columns:
    """The layout of a table: the width of each column, and the line that it is on. Later rows use the same layout."""

    def __init__(
        self,
        headings: Mapping[str, str],
        rows: Sequence[Mapping[str, str]],
        width: int | None,
        spare: Collection[str] = (),
    ) -> None:
        """Compute the layout for the headings and these rows. The arguments are those of ``table``."""
        self._widths = {name: max(cell_len(row[name]) for row in (headings, *rows)) for name in headings}
        self._lines = list(_split(self._widths, width, spare))

    def lines(self, row: Mapping[str, str]) -> Iterator[str]:
        """Yield the lines of a row. A cell wider than its column shifts the cells after it on that line."""
        for number, names in enumerate(self._lines):
            yield _line([(row[name], self._widths[name]) for name in names], number)


def wrapped(row: Mapping[str, str], width: int | None) -> Iterator[str]:
    """Yield the lines of a single row that is not part of a table."""
    for number, names in enumerate(_split({name: cell_len(text) for name, text in row.items()}, width, ())):
        yield _line([(row[name], 0) for name in names], number)


def _split(widths: Mapping[str, int], width: int | None, spare: Collection[str]) -> Iterator[list[str]]:
    """Yield the columns of each line: as many as fit, at least one."""
    if width is not None and sum(widths.values()) + _GAP * (len(widths) - 1) > width:
        widths = {name: needed for name, needed in widths.items() if name not in spare}
    names: list[str] = []
    taken = 0
    for name, needed in widths.items():
        more = needed + (_GAP if names else 0)
        if names and width is not None and taken + more > width:
            yield names
            names, taken, more = [], len(_INDENT), needed
        names.append(name)
        taken += more
    yield names


def _line(cells: Sequence[tuple[str, int]], number: int) -> str:
    texts = [text + " " * (width - cell_len(text)) for text, width in cells]
    return ((_INDENT if number else "") + (" " * _GAP).join(texts)).rstrip()
