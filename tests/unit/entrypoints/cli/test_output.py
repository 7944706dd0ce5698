"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from ibex.entrypoints.cli.output import GrowingTable, Row, display, show_one, show_rows

COLUMNS = {"id": "id", "name": "name"}
ROWS: list[Row] = [{"id": "1", "name": "[bold]one[/bold]", "hidden": 1}, {"id": "2", "name": None, "hidden": 2}]


def test_a_table_has_headings_and_dashes_for_absent_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the given columns are shown. Markup in a text is printed as it is."""
    show_rows(ROWS, as_json=False, empty="none", columns=COLUMNS)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["id", "name"], ["1", "[bold]one[/bold]"], ["2", "-"]]


def test_json_has_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """Each call prints one document. Without rows it is an empty list."""
    show_rows(ROWS, as_json=True, empty="none", columns=COLUMNS)
    show_rows([], as_json=True, empty="none", columns=COLUMNS)
    show_one(ROWS[0], as_json=True)

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [ROWS, [], ROWS[0]]


def test_a_table_without_rows_is_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    """Headings alone would not explain anything."""
    show_rows([], as_json=False, empty="There is none.", columns=COLUMNS)

    assert capsys.readouterr().out == "There is none.\n"


def test_a_growing_table_has_its_headings_once(capsys: pytest.CaptureFixture[str]) -> None:
    """They come before the first rows, and later rows have the same columns."""
    table = GrowingTable({"id": "id", "name": "name", "hidden": "last"})
    for rows in ([], [{"id": "1", "name": "one", "hidden": 1}], [], [{"id": "22", "name": None, "hidden": 2}]):
        table.add(rows)

    assert capsys.readouterr().out.splitlines() == ["id  name  last", "1   one   1", "22  -     2"]


def test_an_object_has_a_line_for_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines are aligned and in the order of the fields."""
    show_one({"id": "1", "longer": True}, as_json=False)

    assert capsys.readouterr().out == "id      1\nlonger  yes\n"


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "-"), ("", "-"), (True, "yes"), (False, "no"), (1.5, "1.500"), (0, "0"), ("x", "x")]
)
def test_values_are_formatted_for_people(value: Any, expected: str) -> None:
    """Numbers have three decimals, and 0 differs from an absent value."""
    assert display(value) == expected


def test_control_characters_in_a_text_are_replaced() -> None:
    """A client can choose a model's name, which must not contain escape sequences or newlines."""
    assert display("gpt\x1b[2J\n\u202e4") == "gpt\ufffd[2J\ufffd\ufffd4"


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", "2026-01-02 03:04:05+00:00"),
        ("Asia/Kolkata", "2026-01-02 08:34:05+05:30"),
        ("America/New_York", "2026-01-01 22:04:05-05:00"),
    ],
)
def test_times_are_local_with_the_offset_from_utc(monkeypatch: pytest.MonkeyPatch, zone: str, expected: str) -> None:
    """A table may be read in another time zone. Times are shown to the second."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert display(datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)) == expected
    finally:
        monkeypatch.undo()
        time.tzset()
