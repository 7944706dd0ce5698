"""Tests of the dead-letter file."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import msgspec
import pytest

from harness.journal_entries import new_exchange
from ibex.adapters.journal import dead_letters
from ibex.adapters.journal.dead_letters import (
    FILE,
    ReplayInProgressError,
    append_dead_letter,
    count_dead_letters,
    put_back,
    taken_dead_letters,
)
from ibex.adapters.journal.encoding import encode
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from pathlib import Path


def test_each_dead_letter_is_one_line(tmp_path: Path) -> None:
    """Each is a JSON object, in a file that only its owner can read."""
    append_dead_letter(tmp_path, Sink.TRACES, "too large", {"id": "a"})
    append_dead_letter(tmp_path, Sink.CHECKPOINTS, "no such agent", {"id": "b", "exchange": {"model": "gpt-4o"}})
    first, second = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    assert first == {"sink": "traces", "reason": "too large", "id": "a"}
    assert second["exchange"] == {"model": "gpt-4o"}
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_text_that_utf8_cannot_encode_is_omitted(tmp_path: Path) -> None:
    """The line then contains only the id."""
    append_dead_letter(tmp_path, Sink.TRACES, "r", {"id": "a", "model": "\ud800"})
    assert json.loads((tmp_path / FILE).read_text()) == {"sink": "traces", "reason": "r", "id": "a"}


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that rejects everything does not fill the disk."""
    monkeypatch.setattr(dead_letters, "MAX_BYTES", 100)
    for _ in range(50):
        append_dead_letter(tmp_path, Sink.TRACES, "r", {"id": "a"})
    assert 0 < (tmp_path / FILE).stat().st_size <= 100


def test_a_missing_directory_raises_no_error(tmp_path: Path) -> None:
    """The dead letter is lost."""
    append_dead_letter(tmp_path / "gone", Sink.TRACES, "r", {"id": "a"})


def test_taken_letters_leave_the_file_once_the_caller_has_finished(tmp_path: Path) -> None:
    """Those that are put back stay. A letter without its exchange is returned too, to be put back."""
    exchange = new_exchange()
    append_dead_letter(tmp_path, Sink.TRACES, "r", {"id": exchange.id, "exchange": msgspec.to_builtins(exchange)})
    append_dead_letter(tmp_path, Sink.CHECKPOINTS, "r", {"body": encode(exchange).hex()})
    append_dead_letter(tmp_path, Sink.TRACES, "r", {"id": "a"})
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"sink": "tra')

    with taken_dead_letters(tmp_path) as letters:
        append_dead_letter(tmp_path, Sink.TRACES, "written meanwhile", {"id": "b"})
        put_back(tmp_path, letters[2:])

    assert [(letter.sink, letter.exchange) for letter in letters] == [
        (Sink.TRACES, exchange),
        (Sink.CHECKPOINTS, exchange),
        (Sink.TRACES, None),
        (None, None),
    ]
    left = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in left[:2]] == ["b", "a"]
    assert left[2] == b'{"sink": "tra\n'
    assert count_dead_letters(tmp_path) == 3


def test_an_interrupted_replay_loses_no_letter(tmp_path: Path) -> None:
    """The next one returns the same letters, and the one after it those that were written meanwhile."""
    append_dead_letter(tmp_path, Sink.TRACES, "r", {"id": "a"})

    def interrupted() -> None:
        with taken_dead_letters(tmp_path):
            append_dead_letter(tmp_path, Sink.TRACES, "r", {"id": "b"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert count_dead_letters(tmp_path) == 2

    for name in ("a", "b"):
        with taken_dead_letters(tmp_path) as letters:
            assert [json.loads(letter.line)["id"] for letter in letters] == [name]
    assert count_dead_letters(tmp_path) == 0


def test_only_one_process_replays_at_a_time(tmp_path: Path) -> None:
    """The error names the directory."""
    append_dead_letter(tmp_path, Sink.TRACES, "r", {"id": "a"})
    with (
        taken_dead_letters(tmp_path),
        pytest.raises(ReplayInProgressError, match=str(tmp_path)),
        taken_dead_letters(tmp_path),
    ):
        pass
