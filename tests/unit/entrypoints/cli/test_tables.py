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


def test_a_row_is_one_line_if_it_fits() -> None:
    """Without a width, every row is one line, because programs read lines."""
    expected = [
        "time   size   stage  id",
        "12:00  1      3.5    0190c0de-0000-7000-8000-0000000000a1",
        "12:01  12345  -      0190c0de-0000-7000-8000-0000000000a2",
    ]

    assert list(table(HEADINGS, ROWS, None)) == expected
    assert list(table(HEADINGS, ROWS, max(map(len, expected)), spare={"stage"})) == expected


def test_columns_that_do_not_fit_move_to_the_next_line() -> None:
    """The headings move too. No cell is truncated."""
    assert list(table(HEADINGS, ROWS, 40)) == [
        "time   size   stage",
        "    id",
        "12:00  1      3.5",
        "    0190c0de-0000-7000-8000-0000000000a1",
        "12:01  12345  -",
        "    0190c0de-0000-7000-8000-0000000000a2",
    ]


def test_an_optional_column_is_omitted_first() -> None:
    """It is omitted if it would require another line."""
    assert list(table(HEADINGS, ROWS, 52, spare={"stage"}))[1] == "12:00  1      0190c0de-0000-7000-8000-0000000000a1"


@pytest.mark.parametrize("width", [1, 10, 36, 40, 41, 57])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Only a cell that is wider than the terminal exceeds it."""
    widest = max(width, 36 + len("    "))

    assert all(cell_len(line) <= widest for line in table(HEADINGS, ROWS, width))
    assert all(cell_len(line) <= widest for row in ROWS for line in wrapped(row, width))


def test_later_rows_have_the_same_layout() -> None:
    """A wider cell only moves the cells after it in its line."""
    columns = Columns(HEADINGS, ROWS, 52, spare={"stage"})
    later = {"time": "12:02", "size": "1234567", "stage": "7", "id": "x"}

    assert list(columns.lines(ROWS[0])) == ["12:00  1      0190c0de-0000-7000-8000-0000000000a1"]
    assert list(columns.lines(later)) == ["12:02  1234567  x"]


def test_wide_characters_take_two_columns() -> None:
    """The cells after them stay aligned with their headings."""
    heading, first, second = table({"a": "a", "b": "b"}, [{"a": "岩山羊", "b": "x"}, {"a": "ibex", "b": "y"}], None)

    assert {cell_len(line) for line in (heading, first, second)} == {9}


def test_a_row_without_a_table_has_no_padding() -> None:
    """It continues on the next line if it does not fit."""
    row = {"time": "12:00", "size": "1", "id": "an-id"}

    assert list(wrapped(row, None)) == ["12:00  1  an-id"]
    assert list(wrapped(row, 9)) == ["12:00  1", "    an-id"]


class Terminal(io.StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        """Return true."""
        return True


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal there is no width."""
    monkeypatch.setitem(os.environ, "COLUMNS", "81")

    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert terminal_width() is None
    monkeypatch.setattr("sys.stdout", Terminal())
    assert terminal_width() == 81
