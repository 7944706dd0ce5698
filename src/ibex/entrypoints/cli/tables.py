"""Tables that fit the terminal: what is too wide goes on in a further line, and nothing is cut.

What is cut or folded within a cell can be neither read nor copied, and most cells here are ids.
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
    """Return how many columns the terminal has; None where nobody looks: a line a row is best for programs."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    headings: Mapping[str, str], rows: Sequence[Mapping[str, str]], width: int | None, spare: Collection[str] = ()
) -> Iterator[str]:
    """Give out the lines of a table, its headings first; each row has as many lines as the headings.

    ``headings`` has the columns' names and what stands above them, ``width`` is None for as wide as it gets. Columns in
    ``spare`` are left out where the width is not enough for all.
    """
    columns = Columns(headings, rows, width, spare)
    for row in (headings, *rows):
        yield from columns.lines(row)


class Columns:
    """How wide the columns are and in which line each stands: what rows have that make one table, however late."""

    def __init__(
        self,
        headings: Mapping[str, str],
        rows: Sequence[Mapping[str, str]],
        width: int | None,
        spare: Collection[str] = (),
    ) -> None:
        """Make room for the headings and for these rows; the arguments are those of ``table``."""
        self._widths = {name: max(cell_len(row[name]) for row in (headings, *rows)) for name in headings}
        self._lines = list(_split(self._widths, width, spare))

    def lines(self, row: Mapping[str, str]) -> Iterator[str]:
        """Give out the lines of a row. A cell that is wider than its column moves what is behind it, and no other."""
        for number, names in enumerate(self._lines):
            yield _line([(row[name], self._widths[name]) for name in names], number)


def wrapped(row: Mapping[str, str], width: int | None) -> Iterator[str]:
    """Give out the lines of a row that stands for itself."""
    for number, names in enumerate(_split({name: cell_len(text) for name, text in row.items()}, width, ())):
        yield _line([(row[name], 0) for name in names], number)


def _split(widths: Mapping[str, int], width: int | None, spare: Collection[str]) -> Iterator[list[str]]:
    """Give out which columns stand in which line: as many as fit, one at least."""
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
