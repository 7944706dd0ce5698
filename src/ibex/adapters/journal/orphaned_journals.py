"""The journals of processes that are gone, found below the directory that all processes of an installation share."""

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
    """A ``OrphanedJournals`` over one root directory."""

    def __init__(self, root: Path | str, ids: IdSource) -> None:
        self._root = Path(root)
        self._ids = ids

    async def take(self) -> Journal | None:
        """Open the journals below the root that nobody has, until one of them is not empty."""
        for file in sorted(self._root.glob(f"*/{JOURNAL}")):
            journal = SqliteJournal(file.parent, self._ids)
            with suppress(JournalUnavailableError):
                await journal.open()
                if journal.left_open() or any(journal.depth(sink) for sink in Sink):
                    return journal
                await journal.close()
        return None

    async def give_back(self, journal: Journal) -> None:
        """Close it."""
        if isinstance(journal, SqliteJournal):
            await journal.close()
