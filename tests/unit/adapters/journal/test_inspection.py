"""Tests of the reports about journals."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from harness.journal_entries import new_exchange
from ibex.adapters.journal.dead_letters import append_dead_letter
from ibex.adapters.journal.directories import JOURNAL, claim_any
from ibex.adapters.journal.inspection import JournalState, journal_reports
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import Sink, append_and_wait

if TYPE_CHECKING:
    from pathlib import Path


async def test_each_journal_is_reported_with_its_owner_and_what_is_left(tmp_path: Path) -> None:
    """Reading does not disturb the running process, nor does it lock an orphaned journal."""
    exchanges = [new_exchange() for _ in range(3)]
    running, orphan = (SqliteJournal(tmp_path, SystemIds(), claim=claim_any) for _ in range(2))
    for journal in (running, orphan):
        await journal.open()
        for exchange in exchanges:
            await append_and_wait(journal, exchange)
    batch = await orphan.next_batch(Sink.TRACES, 2)
    assert batch is not None
    await orphan.acknowledge(Sink.TRACES, batch)
    orphan.begin(new_exchange())
    await orphan.dead_letter(Sink.CHECKPOINTS, exchanges[0], "refused")
    await orphan.close()

    first, second = journal_reports(tmp_path)

    assert (first.path, first.state, first.process) == (str(tmp_path / "0"), JournalState.IN_USE, os.getpid())
    assert (second.state, second.checkpoints, second.traces, second.in_flight) == (JournalState.ORPHANED, 3, 1, 1)
    assert (second.oldest, second.dead_letters, second.format) == (exchanges[0].completed_at, 1, 1)
    assert (second.size_bytes or 0) > 1_000
    again = SqliteJournal(tmp_path / "1", SystemIds())
    await again.open()
    await again.close()
    await running.close()


async def test_journals_that_cannot_be_delivered_say_why(tmp_path: Path) -> None:
    """The others are reported all the same, in the order of their numbers."""
    for number in (0, 2, 10):
        journal = SqliteJournal(tmp_path / str(number), SystemIds())
        await journal.open()
        await journal.close()
    with closing(sqlite3.connect(tmp_path / "0" / JOURNAL)) as connection:
        connection.execute("PRAGMA user_version = 9")
    (tmp_path / "2" / JOURNAL).write_bytes(b"no database" * 100)

    newer, damaged, empty = journal_reports(tmp_path)

    assert (newer.state, newer.format) == (JournalState.NEWER, 9)
    assert "supports formats up to 1" in (newer.reason or "")
    assert (damaged.state, damaged.reason) == (JournalState.UNREADABLE, "SQLITE_NOTADB")
    assert (empty.state, empty.checkpoints, empty.oldest, empty.reason) == (JournalState.ORPHANED, 0, None, None)


async def test_journals_of_all_users_of_a_shared_directory_are_reported(tmp_path: Path) -> None:
    """A folder that cannot be entered is reported as such."""
    for name in ("ibex-1", "ibex-2"):
        journal = SqliteJournal(tmp_path / name / "0", SystemIds())
        await journal.open()
        await journal.close()
    append_dead_letter(tmp_path / "ibex-2" / "0", Sink.TRACES, "refused", {"id": "a"})

    assert [report.dead_letters for report in journal_reports(tmp_path)] == [0, 1]
    if os.geteuid() == 0:
        pytest.skip("root can enter every folder")
    (tmp_path / "ibex-1").chmod(0)
    hidden = next(journal_reports(tmp_path))
    assert (hidden.path, hidden.state) == (str(tmp_path / "ibex-1"), JournalState.UNREADABLE)
