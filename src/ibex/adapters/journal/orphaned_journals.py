"""Recovery of orphaned journals, in the root directory that all processes of an installation share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ibex.adapters.journal.directories import (
    JournalInUseError,
    NewerJournalError,
    journal_directories,
    journals_root,
)
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.domain.record.journal import JournalUnavailableError, Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from ibex.domain.ids import IdSource
    from ibex.domain.record.journal import Journal

_LOG: Final = logging.getLogger("ibex.journal")


class OrphanedSqliteJournals:
    """An ``OrphanedJournals`` that searches one root directory. The constructor does not access the disk."""

    def __init__(
        self, root: Path | str, ids: IdSource, searched: Callable[[int, int, int], None] = lambda *_numbers: None
    ) -> None:
        """Set the root directory.

        ``searched`` is called with the number of journals that are taken, of those that could not be opened, and of
        those that only a newer version of IBEX can read.
        """
        self._root = Path(root)
        self._ids = ids
        self._searched = searched
        self._taken = 0
        self._unreadable = 0
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
        unreadable = 0
        for directory in self._directories():
            journal = SqliteJournal(directory, self._ids)
            try:
                await journal.open()
                self._newer.discard(directory)
                if journal.unfinished() or any(journal.depth(sink) for sink in Sink):
                    self._report(self._taken + 1, max(unreadable, self._unreadable))
                    return journal
                await journal.close()
            except JournalInUseError:
                continue  # its process is alive, or another one recovers it
            except NewerJournalError as error:
                if directory not in self._newer:
                    _LOG.error("%s", error)
                self._newer.add(directory)
            except JournalUnavailableError:
                unreadable += 1
        self._report(self._taken, unreadable)
        return None

    async def give_back(self, journal: Journal) -> None:
        """Close a journal that ``take`` returned."""
        if isinstance(journal, SqliteJournal):
            self._report(self._taken - 1, self._unreadable)
            await journal.close()

    def _directories(self) -> list[Path]:
        try:
            directories = list(journal_directories(journals_root(self._root)))
        except (OSError, JournalUnavailableError):  # opening this process's own journal reports it
            directories = []
        self._newer.intersection_update(directories)
        return directories

    def _report(self, taken: int, unreadable: int) -> None:
        self._taken, self._unreadable = taken, unreadable
        self._searched(taken, unreadable, self.newer)
