"""Recovery of orphaned journals, in the root directory that all processes of an installation share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ibex.adapters.journal.directories import JOURNAL, JournalInUseError
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.domain.record.journal import JournalUnavailableError, Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.domain.ids import IdSource
    from ibex.domain.record.journal import Journal


class OrphanedSqliteJournals:
    """An ``OrphanedJournals`` that searches one root directory."""

    def __init__(
        self, root: Path | str, ids: IdSource, searched: Callable[[int, int], None] = lambda _taken, _unreadable: None
    ) -> None:
        """Set the root directory.

        ``searched`` is called with the number of journals that are taken, and of those that could not be opened.
        """
        self._root = Path(root)
        self._ids = ids
        self._searched = searched
        self._taken = 0
        self._unreadable = 0

    async def take(self) -> Journal | None:
        """Open unlocked journals below the root, and return the first that is not empty, or None if all are empty."""
        unreadable = 0
        for file in sorted(self._root.glob(f"*/{JOURNAL}")):
            journal = SqliteJournal(file.parent, self._ids)
            try:
                await journal.open()
                if journal.unfinished() or any(journal.depth(sink) for sink in Sink):
                    self._report(self._taken + 1, max(unreadable, self._unreadable))
                    return journal
                await journal.close()
            except JournalInUseError:
                continue  # its process is alive, or another one recovers it
            except JournalUnavailableError:
                unreadable += 1
        self._report(self._taken, unreadable)
        return None

    async def give_back(self, journal: Journal) -> None:
        """Close a journal that ``take`` returned."""
        if isinstance(journal, SqliteJournal):
            self._report(self._taken - 1, self._unreadable)
            await journal.close()

    def _report(self, taken: int, unreadable: int) -> None:
        self._taken, self._unreadable = taken, unreadable
        self._searched(taken, unreadable)
