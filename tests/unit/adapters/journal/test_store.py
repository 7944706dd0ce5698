"""Tests of the journal's SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from ibex.adapters.journal.store import ROWS_PER_INSERT, BackgroundConnection, Span, Store
from ibex.domain.record.journal import JournalUnavailableError, Sink

if TYPE_CHECKING:
    from pathlib import Path


def _open(path: Path) -> Store:
    return Store(path / "journal.sqlite", uuid4(), full_sync=False)


def test_a_file_keeps_its_id_and_its_state(tmp_path: Path) -> None:
    """A reopened file has the same id, positions and fixed batches."""
    with closing(_open(tmp_path)) as store:
        store.append([b"one", b"two", b"three"])
        store.acknowledge(Sink.TRACES, 1)
        fixed = store.fix_batch(Sink.TRACES, 1)
        identity = store.journal_id
    with closing(_open(tmp_path)) as store:
        assert store.journal_id == identity
        assert store.last_position == 3
        assert store.stored_bytes == len("onetwothree")
        assert store.acknowledged == {Sink.TRACES: 1, Sink.CHECKPOINTS: 0}
        assert store.fix_batch(Sink.TRACES, 100) == fixed == Span(2, 2)


def test_positions_continue_after_everything_was_delivered(tmp_path: Path) -> None:
    """An empty file still has its last position."""
    with closing(_open(tmp_path)) as store:
        store.append([b"one", b"two"])
        for sink in Sink:
            store.acknowledge(sink, 2)
        assert store.stored_bytes == 0
    with closing(_open(tmp_path)) as store:
        assert store.append([b"three"]) == Span(3, 3)


def test_space_is_reused(tmp_path: Path) -> None:
    """A journal that is drained as it fills does not grow."""
    body = bytes(1_000)
    with closing(_open(tmp_path)) as store, closing(BackgroundConnection(store.path)) as second:
        sizes = []
        for _ in range(20):
            last = store.append([body] * ROWS_PER_INSERT).last
            for sink in Sink:
                store.acknowledge(sink, last)
            second.checkpoint()
            sizes.append(store.path.stat().st_size)
    assert sizes[-1] <= 2 * ROWS_PER_INSERT * len(body)
    assert sizes[-1] == sizes[2]


def test_the_background_connection_reads_committed_exchanges(tmp_path: Path) -> None:
    """It returns the exchanges of the span in order."""
    with closing(_open(tmp_path)) as store, closing(BackgroundConnection(store.path)) as second:
        store.append([b"one", b"two", b"three"])
        assert second.bodies(Span(2, 3)) == [b"two", b"three"]
        store.append([b"four"])
        assert second.bodies(Span(3, 4)) == [b"three", b"four"]


def test_the_background_connection_recovers(tmp_path: Path) -> None:
    """An error does not affect later calls."""
    with closing(BackgroundConnection(tmp_path / "journal.sqlite")) as second:
        with pytest.raises(sqlite3.Error):
            second.bodies(Span(1, 1))
        second.checkpoint()
        with closing(_open(tmp_path)) as store:
            store.append([b"one"])
            assert second.bodies(Span(1, 1)) == [b"one"]


@pytest.mark.parametrize(("full_sync", "level"), [(False, 1), (True, 2)])
def test_the_sync_level_is_set(tmp_path: Path, full_sync: bool, level: int) -> None:  # noqa: FBT001 - a parameter
    """NORMAL survives the death of the process, FULL also a power loss."""
    with closing(Store(tmp_path / "journal.sqlite", uuid4(), full_sync=full_sync)) as store:
        connection = store._connection  # noqa: SLF001 - no other way to see it
        assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_newer_format_is_rejected(tmp_path: Path) -> None:
    """The file is not changed, and the error names both formats."""
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalUnavailableError, match="format 99"):
        _open(tmp_path)


def test_a_failed_insert_changes_nothing(tmp_path: Path) -> None:
    """After an error, positions continue where they were."""
    with closing(_open(tmp_path)) as store:
        with pytest.raises(sqlite3.Error):
            store.append([b"fine", None])  # type: ignore[list-item]
        assert store.last_position == store.stored_bytes == 0
        assert store.append([b"one"]) == Span(1, 1)


def test_a_failed_acknowledgement_changes_nothing(tmp_path: Path) -> None:
    """A transaction that fails half-way leaves position, batch and rows."""
    with closing(_open(tmp_path)) as store, closing(sqlite3.connect(store.path)) as other:
        store.append([b"one"])
        other.execute("CREATE TRIGGER refuse BEFORE DELETE ON exchanges BEGIN SELECT raise(ABORT, 'no'); END")
        other.commit()
        store.acknowledge(Sink.TRACES, 1)
        with pytest.raises(sqlite3.Error):
            store.acknowledge(Sink.CHECKPOINTS, 1)
        assert store.acknowledged[Sink.CHECKPOINTS] == 0
        other.execute("DROP TRIGGER refuse")
        other.commit()
        store.acknowledge(Sink.CHECKPOINTS, 1)
        assert store.stored_bytes == 0
