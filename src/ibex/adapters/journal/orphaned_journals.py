"""Recovery of orphaned journals, in the root directory that all processes of an installation share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ibex.adapters.journal.directories import NewerJournalError, journal_directories, journals_root
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.domain.record.journal import JournalUnavailableError, Sink

if TYPE_CHECKING:
    from ibex.domain.ids import IdSource
    from ibex.domain.record.journal import Journal

_LOG: Final = logging.getLogger("ibex.journal")


class OrphanedSqliteJournals:
    """An ``OrphanedJournals`` that searches one root directory. The constructor does not access the disk."""

    def __init__(self, root: Path | str, ids: IdSource) -> None:
        self._root = Path(root)
        self._ids = ids
        self._newer: set[Path] = set()

    @property
    def newer(self) -> int:
        """The number of orphaned journals that only a newer version of IBEX can read, as of the last search."""
        return len(self._newer)

    async def ping(self) -> None:
        """Raise ``JournalUnavailableError`` if a journal waits for a newer version of IBEX."""
        if self._newer:
            raise JournalUnavailableError(f"{self.newer} journals wait for a newer version of IBEX")

    async def take(self) -> Journal | None:
        """Open unlocked journals below the root, and return the first that is not empty, or None if all are empty.

        A journal that a newer version of IBEX wrote is left as it is.
        """
        try:
            directories = list(journal_directories(journals_root(self._root)))
        except (OSError, JournalUnavailableError):  # opening this process's own journal reports it
            return None
        self._newer.intersection_update(directories)
        for directory in directories:
            journal = SqliteJournal(directory, self._ids)
            try:
                await journal.open()
            except NewerJournalError as error:
                if directory not in self._newer:
                    _LOG.error("%s", error)
                self._newer.add(directory)
                continue
            except JournalUnavailableError:
                continue
            self._newer.discard(directory)
            if journal.unfinished() or any(journal.depth(sink) for sink in Sink):
                return journal
            await journal.close()
        return None

    async def give_back(self, journal: Journal) -> None:
        """Close a journal that ``take`` returned."""
        if isinstance(journal, SqliteJournal):
            await journal.close()
