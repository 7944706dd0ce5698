"""The check whether a newer version of IBEX wrote a journal. It reads the files and leaves them as they are.

Newer versions append after older ones and never before them, so the last exchange tells the format of all.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from ibex.adapters.journal.encoding import VERSION, version_of
from ibex.adapters.journal.in_flight_log import entries_of
from ibex.adapters.journal.store import FORMAT

if TYPE_CHECKING:
    from pathlib import Path

_LAST: Final = "SELECT body FROM exchanges ORDER BY position DESC LIMIT 1"


def newer_format(journal: Path, in_flight_log: Path) -> str | None:
    """Return what is newer in a journal than this version supports, None if nothing is.

    A file that is missing or damaged is not newer. Raises ``OSError``.
    """
    if not journal.exists():
        return None
    connection = open_read_only(journal)
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            return f"its format is {found}, and this version supports formats up to {FORMAT}"
        bodies = [] if found == 0 else [body for (body,) in connection.execute(_LAST)]
    except sqlite3.Error:
        return None
    finally:
        connection.close()
    newest = max((version_of(body) for body in (*bodies, *entries_of(in_flight_log))), default=0)
    if newest > VERSION:
        return f"its exchanges have format {newest}, and this version supports formats up to {VERSION}"
    return None


def open_read_only(journal: Path) -> sqlite3.Connection:
    """Return a connection that does not change the journal, even if its process has died in the middle of a write."""
    return sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0, isolation_level=None)
