"""Tests of the recovery of orphaned journals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.journal_entries import new_exchange
from ibex.adapters.journal.directories import JOURNAL, claim_any
from ibex.adapters.journal.orphaned_journals import OrphanedSqliteJournals
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import Sink, append_and_wait

if TYPE_CHECKING:
    from pathlib import Path

    from ibex.domain.record.exchange import Exchange


async def a_journal(root: Path, *exchanges: Exchange, begun: Exchange | None = None) -> SqliteJournal:
    """Return an open journal below the root with these exchanges."""
    journal = SqliteJournal(root, SystemIds(), claim=claim_any)
    await journal.open()
    for exchange in exchanges:
        await append_and_wait(journal, exchange)
    if begun is not None:
        journal.begin(begun)
    return journal


async def test_each_orphaned_journal_is_taken_once_unless_it_is_empty(tmp_path: Path) -> None:
    """Journals of running processes are not taken."""
    left = new_exchange()
    journals = [await a_journal(tmp_path, new_exchange()), await a_journal(tmp_path), await a_journal(tmp_path, left)]
    await journals[1].close()
    await journals[2].close()
    found = OrphanedSqliteJournals(tmp_path, SystemIds())

    taken = await found.take()

    assert taken is not None
    batch = await taken.next_batch(Sink.TRACES, 10)
    assert batch is not None
    assert batch.exchanges == [left]
    assert await found.take() is None
    await found.give_back(taken)
    again = await found.take()
    assert again is not None
    await found.give_back(again)
    await journals[0].close()


async def test_a_journal_with_only_an_unfinished_exchange_is_taken(tmp_path: Path) -> None:
    """The journal has an in-flight entry, but no appended exchange."""
    begun = new_exchange()
    await (await a_journal(tmp_path, begun=begun)).close()
    taken = await OrphanedSqliteJournals(tmp_path, SystemIds()).take()
    assert taken is not None
    assert list(taken.unfinished()) == [begun]
    await OrphanedSqliteJournals(tmp_path, SystemIds()).give_back(taken)


async def test_a_root_that_does_not_exist_has_no_journals(tmp_path: Path) -> None:
    """No error is raised."""
    assert await OrphanedSqliteJournals(tmp_path / "none", SystemIds()).take() is None


async def test_each_search_reports_taken_and_unreadable_journals(tmp_path: Path) -> None:
    """The journal of a running process is neither; one that is given back does not count any more."""
    running = await a_journal(tmp_path)
    await (await a_journal(tmp_path, new_exchange())).close()
    broken = tmp_path / "broken" / JOURNAL
    broken.parent.mkdir()
    broken.write_bytes(b"This is no SQLite file." * 100)
    reports: list[tuple[int, int, int]] = []
    found = OrphanedSqliteJournals(tmp_path, SystemIds(), lambda *numbers: reports.append(numbers))

    taken = await found.take()
    assert taken is not None
    assert await found.take() is None
    await found.give_back(taken)

    assert reports == [(1, 0, 0), (1, 1, 0), (0, 1, 0)]
    await running.close()
