"""Tests of the check whether a newer version of IBEX wrote a journal."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from harness.journal_entries import new_exchange
from harness.logs import logged
from ibex.adapters.journal.directories import IN_FLIGHT_LOG, JOURNAL, LOCK, claim_any
from ibex.adapters.journal.formats import newer_format
from ibex.adapters.journal.in_flight_log import InFlightLog
from ibex.adapters.journal.orphaned_journals import OrphanedSqliteJournals
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import JournalUnavailableError, Sink, append_and_wait

if TYPE_CHECKING:
    from pathlib import Path

NEWER_ROW = msgspec.msgpack.encode([2, {"a": "field of a later version"}])


async def a_journal(root: Path) -> Path:
    """Return the directory of a closed journal with one exchange."""
    journal = SqliteJournal(root, SystemIds(), claim=claim_any)
    await journal.open()
    await append_and_wait(journal, new_exchange())
    await journal.close()
    return root / "0"


def with_a_newer_schema(directory: Path) -> None:
    """Change the version of the file."""
    with closing(sqlite3.connect(directory / JOURNAL)) as connection:
        connection.execute("PRAGMA user_version = 9")


def with_a_newer_row(directory: Path) -> None:
    """Append a row as a newer version does."""
    with closing(sqlite3.connect(directory / JOURNAL)) as connection, connection:
        connection.execute("INSERT INTO exchanges VALUES (2, ?)", (NEWER_ROW,))


def with_a_newer_entry(directory: Path) -> None:
    """Begin an exchange as a newer version does."""
    log = InFlightLog(directory / IN_FLIGHT_LOG)
    log.write(new_exchange().id, NEWER_ROW)
    log.close()


def content(directory: Path) -> dict[str, str]:
    """Return the hashes of the files, without the lock, and SQLite's index and empty log, which a reader creates."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
        if path.name not in {LOCK, f"{JOURNAL}-shm"} and path.stat().st_size
    }


def told(directory: Path) -> str | None:
    """Return the result of the check."""
    return newer_format(directory / JOURNAL, directory / IN_FLIGHT_LOG)


@pytest.mark.parametrize("change", [with_a_newer_schema, with_a_newer_row, with_a_newer_entry])
async def test_a_journal_of_a_newer_version_is_left_as_it_is_and_the_others_go_on(
    tmp_path: Path, change: object
) -> None:
    """A start takes another directory. The recovery takes the other journals, and readiness and metrics tell of it."""
    assert callable(change)
    directory = await a_journal(tmp_path)
    change(directory)
    before = content(directory)
    other = SqliteJournal(tmp_path, SystemIds(), claim=claim_any)

    with logged() as lines:
        await other.open()
        await append_and_wait(other, new_exchange())
        await other.close()
        orphaned = OrphanedSqliteJournals(tmp_path, SystemIds())
        taken = await orphaned.take()
        assert taken is not None
        batch = await taken.next_batch(Sink.TRACES, 10)
        assert batch is not None
        for sink in Sink:
            await taken.acknowledge(sink, batch)
        await orphaned.give_back(taken)
        assert await orphaned.take() is None

    assert content(directory) == before
    assert orphaned.newer == 1
    with pytest.raises(JournalUnavailableError, match="1 journals wait for a newer version"):
        await orphaned.ping()
    assert [line["level"] for line in lines] == ["warning", "error"]
    assert all(str(directory) in line["event"] and "newer version" in line["event"] for line in lines)


async def test_a_journal_that_is_drained_by_the_newer_version_is_no_longer_counted(tmp_path: Path) -> None:
    """The next search forgets it."""
    directory = await a_journal(tmp_path)
    with_a_newer_schema(directory)
    reports: list[tuple[int, int, int]] = []
    orphaned = OrphanedSqliteJournals(tmp_path, SystemIds(), lambda *numbers: reports.append(numbers))
    assert await orphaned.take() is None
    assert orphaned.newer == 1

    (directory / JOURNAL).unlink()

    assert await orphaned.take() is None
    assert orphaned.newer == 0
    await orphaned.ping()
    assert reports == [(0, 0, 1), (0, 0, 0)]


async def test_journals_of_this_version_and_damaged_ones_are_not_newer(tmp_path: Path) -> None:
    """Opening a damaged journal reports its own error."""
    directory = await a_journal(tmp_path)
    assert told(directory) is None
    with closing(sqlite3.connect(directory / JOURNAL)) as connection, connection:
        connection.execute("INSERT INTO exchanges VALUES (2, ?)", (os.urandom(64),))
    assert told(directory) is None
    (directory / JOURNAL).write_bytes(b"no database" * 100)
    assert told(directory) is None
    assert told(tmp_path / "none") is None
