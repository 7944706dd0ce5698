"""Tables that fit the terminal."""

from __future__ import annotations

import io
import os

import pytest
from rich.cells import cell_len

from ibex.entrypoints.cli.tables import Columns, table, terminal_width, wrapped

HEADINGS = {"time": "time", "size": "size", "stage": "stage", "id": "id"}
ROWS = [
    {"time": "12:00", "size": "1", "stage": "3.5", "id": "0190c0de-0000-7000-8000-0000000000a1"},
    {"time": "12:01", "size": "12345", "stage": "-", "id": "0190c0de-0000-7000-8000-0000000000a2"},
]


def test_where_there_is_room_a_row_is_a_line() -> None:
    """As is every row where the width does not matter: programs look at lines."""
    expected = [
        "time   size   stage  id",
        "12:00  1      3.5    0190c0de-0000-7000-8000-0000000000a1",
        "12:01  12345  -      0190c0de-0000-7000-8000-0000000000a2",
    ]

    assert list(table(HEADINGS, ROWS, None)) == expected
    assert list(table(HEADINGS, ROWS, max(map(len, expected)), spare={"stage"})) == expected


def test_what_does_not_fit_goes_on_in_a_line_below() -> None:
    """The headings as the rows; nothing is cut."""
    assert list(table(HEADINGS, ROWS, 40)) == [
        "time   size   stage",
        "    id",
        "12:00  1      3.5",
        "    0190c0de-0000-7000-8000-0000000000a1",
        "12:01  12345  -",
        "    0190c0de-0000-7000-8000-0000000000a2",
    ]


def test_what_is_spare_goes_first() -> None:
    """It is left out where it would cost a line, or another one."""
    assert list(table(HEADINGS, ROWS, 52, spare={"stage"}))[1] == "12:00  1      0190c0de-0000-7000-8000-0000000000a1"


@pytest.mark.parametrize("width", [1, 10, 36, 40, 41, 57])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """But for a cell that is wider by itself."""
    widest = max(width, 36 + len("    "))

    assert all(cell_len(line) <= widest for line in table(HEADINGS, ROWS, width))
    assert all(cell_len(line) <= widest for row in ROWS for line in wrapped(row, width))


def test_a_row_that_comes_later_has_the_same_columns_in_the_same_lines() -> None:
    """Whatever the width of its cells; a wider one moves what is behind it in its line."""
    columns = Columns(HEADINGS, ROWS, 52, spare={"stage"})
    later = {"time": "12:02", "size": "1234567", "stage": "7", "id": "x"}

    assert list(columns.lines(ROWS[0])) == ["12:00  1      0190c0de-0000-7000-8000-0000000000a1"]
    assert list(columns.lines(later)) == ["12:02  1234567  x"]


def test_wide_characters_take_two_columns() -> None:
    """So that what comes after them stands below its heading."""
    heading, first, second = table({"a": "a", "b": "b"}, [{"a": "岩山羊", "b": "x"}, {"a": "ibex", "b": "y"}], None)

    assert {cell_len(line) for line in (heading, first, second)} == {9}


def test_a_row_by_itself_is_as_wide_as_it_is() -> None:
    """Without padding, and in lines where there is no room."""
    row = {"time": "12:00", "size": "1", "id": "an-id"}

    assert list(wrapped(row, None)) == ["12:00  1  an-id"]
    assert list(wrapped(row, 9)) == ["12:00  1", "    an-id"]


class Terminal(io.StringIO):
    """Standard output where a person looks at it."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_the_width_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody looks there is none."""
    monkeypatch.setitem(os.environ, "COLUMNS", "81")

    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert terminal_width() is None
    monkeypatch.setattr("sys.stdout", Terminal())
    assert terminal_width() == 81
