"""Reports about the journals of an installation. Reading them changes nothing, even while their processes run."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - a field of a dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.journal.dead_letters import count_dead_letters
from ibex.adapters.journal.directories import IN_FLIGHT_LOG, JOURNAL, LOCK, OWN_PREFIX
from ibex.adapters.journal.encoding import UnreadableExchangeError, decode
from ibex.adapters.journal.formats import newer_format, open_read_only
from ibex.adapters.journal.in_flight_log import entries_of
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATTERNS: Final = (f"*/{JOURNAL}", f"{OWN_PREFIX}*/*/{JOURNAL}")
_FROM_FIRST: Final = "SELECT body FROM exchanges ORDER BY position LIMIT 1"
_SIZE: Final = "SELECT coalesce(max(position), 0), coalesce(sum(length(body)), 0) FROM exchanges"


class JournalState(StrEnum):
    """The state of a journal: a process has it open, another process can deliver it, or none of this version can."""

    IN_USE = "in use"
    ORPHANED = "orphaned"
    NEWER = "newer version"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class JournalReport:
    """A report about a journal. A field that could not be read is None. ``reason`` explains the last two states.

    ``process`` is the id that the owner has written, as its own process namespace numbers it. ``size_bytes`` counts the
    exchanges that a sink still waits for; ``oldest`` is the time at which the first of them ended. ``in_flight`` is the
    number of exchanges that were begun and have not ended.
    """

    path: str
    state: JournalState
    process: int | None
    format: int | None = None
    checkpoints: int | None = None
    traces: int | None = None
    in_flight: int | None = None
    size_bytes: int | None = None
    oldest: datetime | None = None
    dead_letters: int | None = None
    reason: str | None = None


def journal_reports(configured: Path) -> Iterator[JournalReport]:
    """Yield a report for each journal below ``IBEX_JOURNAL_DIR``, also for those of other users, by path."""
    found = {file.parent for pattern in _PATTERNS for file in configured.glob(pattern)}
    hidden = {path for path in configured.glob(f"{OWN_PREFIX}*") if path.is_dir() and not os.access(path, os.X_OK)}
    for directory in sorted(found | hidden, key=_by_number):
        try:
            yield _report(directory)
        except (OSError, sqlite3.Error) as error:
            yield JournalReport(str(directory), JournalState.UNREADABLE, None, reason=_reason(error))


def _report(directory: Path) -> JournalReport:
    journal = directory / JOURNAL
    holder, process = _owner(directory / LOCK)
    letters = count_dead_letters(directory)
    newer = newer_format(journal, directory / IN_FLIGHT_LOG)
    with closing(open_read_only(journal)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if newer is not None:
            state = JournalState.IN_USE if holder else JournalState.NEWER
            return JournalReport(str(directory), state, process, version, dead_letters=letters, reason=newer)
        last, size = connection.execute(_SIZE).fetchone()
        acknowledged: dict[str, int] = dict(connection.execute("SELECT name, acknowledged FROM sinks").fetchall())
        first = connection.execute(_FROM_FIRST).fetchone()
    end = max(last, *acknowledged.values(), 0)
    return JournalReport(
        path=str(directory),
        state=JournalState.IN_USE if holder else JournalState.ORPHANED,
        process=process,
        format=version,
        checkpoints=end - acknowledged.get(Sink.CHECKPOINTS, 0),
        traces=end - acknowledged.get(Sink.TRACES, 0),
        in_flight=len(entries_of(directory / IN_FLIGHT_LOG)),
        size_bytes=size,
        oldest=_completed_at(first[0]) if first is not None else None,
        dead_letters=letters,
    )


def _owner(lock: Path) -> tuple[bool, int | None]:
    """Return whether a process holds the lock, and the process id in the file."""
    try:
        file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False, None
    try:
        text = os.pread(file, 32, 0)
        process = int(text) if text.strip().isdigit() else None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True, process
        return False, process
    finally:
        os.close(file)


def _completed_at(body: bytes) -> datetime | None:
    try:
        return decode(body).completed_at
    except UnreadableExchangeError:
        return None


def _by_number(path: Path) -> tuple[str, Any]:
    return str(path.parent), (not path.name.isdigit(), int(path.name) if path.name.isdigit() else path.name)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return getattr(error, "sqlite_errorname", None) or type(error).__name__
