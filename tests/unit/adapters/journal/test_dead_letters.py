"""Tests of the dead-letter file."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from ibex.adapters.journal import dead_letters
from ibex.adapters.journal.dead_letters import FILE, append_dead_letter
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


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
