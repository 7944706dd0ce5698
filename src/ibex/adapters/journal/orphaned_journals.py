"""Recovery of orphaned journals, in the root directory that all processes of an installation share."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ibex.adapters.journal.directories import JOURNAL
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.domain.record.journal import JournalUnavailableError, Sink

if TYPE_CHECKING:
    from ibex.domain.ids import IdSource
    from ibex.domain.record.journal import Journal


class OrphanedSqliteJournals:
    """An ``OrphanedJournals`` that searches one root directory."""

    def __init__(self, root: Path | str, ids: IdSource) -> None:
        self._root = Path(root)
        self._ids = ids

    async def take(self) -> Journal | None:
        """Open unlocked journals below the root, and return the first that is not empty, or None if all are empty."""
        for file in sorted(self._root.glob(f"*/{JOURNAL}")):
            journal = SqliteJournal(file.parent, self._ids)
            with suppress(JournalUnavailableError):
                await journal.open()
                if journal.unfinished() or any(journal.depth(sink) for sink in Sink):
                    return journal
                await journal.close()
        return None

    async def give_back(self, journal: Journal) -> None:
        """Close a journal that ``take`` returned."""
        if isinstance(journal, SqliteJournal):
            await journal.close()
