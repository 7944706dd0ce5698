"""The journal's SQLite file: exchanges by position, and how far each sink is. Synchronous, for one thread.

A position is given once and never again; positions have no gaps, so arithmetic on them counts exchanges. Every public
method is one transaction and raises ``sqlite3.Error`` if it did not happen.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ibex.domain.record.journal import JournalFullError, JournalUnavailableError, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from uuid import UUID

FORMAT: Final = 1
# Rows of one INSERT. Each statement that SQLite steps through lets go of the interpreter lock and has to get it back
# from a busy event loop, so a group is one statement and not one a row.
ROWS_PER_INSERT: Final = 256
# After so many appended bytes the write-ahead log is worth copying into the file, by the other thread.
CHECKPOINT_BYTES: Final = 500_000
# What the other thread leaves, the writer copies itself once the log has so many pages of 4 KiB. That bounds the log,
# at the price of commits that wait for two flushes of the disk.
_OWN_CHECKPOINT_PAGES: Final = 4_000
LEAST_ROOM_BYTES: Final = 1 << 20
_BUSY_TIMEOUT_S: Final = 5.0
_SCHEMA: Final = f"""
BEGIN;
CREATE TABLE journal (id TEXT NOT NULL);
CREATE TABLE exchanges (position INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE sinks (
    name TEXT PRIMARY KEY, acknowledged INTEGER NOT NULL, batch_first INTEGER, batch_last INTEGER
) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive positions, both ends included."""

    first: int
    last: int


class Store:
    """One open file. ``last_position`` is 0 before the first exchange; ``stored_bytes`` counts bodies only."""

    def __init__(self, path: Path, new_id: UUID, *, full_sync: bool) -> None:
        """Open the file, or create it as the journal ``new_id``.

        Raises ``sqlite3.Error`` or ``OSError``, and ``JournalUnavailableError`` if a newer version wrote the file.
        """
        self.path = path
        # SQLite gives the files beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, cached_statements=ROWS_PER_INSERT + 16
        )
        try:
            self._prepare(new_id, full_sync=full_sync)
            self._read_state()
        except BaseException:
            self.close()
            raise

    def _prepare(self, new_id: UUID, *, full_sync: bool) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if full_sync else 'NORMAL'}")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {_OWN_CHECKPOINT_PAGES}")
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise JournalUnavailableError(f"the journal has format {found}, this version of IBEX knows up to {FORMAT}")
        if found == 0:
            self._connection.executescript(_SCHEMA)
            self._connection.execute("INSERT INTO journal VALUES (?)", (str(new_id),))
            self._connection.execute("COMMIT")
        self._connection.executemany(
            "INSERT INTO sinks (name, acknowledged) VALUES (?, 0) ON CONFLICT DO NOTHING", [(s.value,) for s in Sink]
        )

    def _read_state(self) -> None:
        (self.journal_id,) = self._connection.execute("SELECT id FROM journal").fetchone()
        self.acknowledged: dict[Sink, int] = {}
        self.fixed: dict[Sink, Span] = {}
        for name, acknowledged, first, last in self._connection.execute("SELECT * FROM sinks"):
            self.acknowledged[Sink(name)] = acknowledged
            if first is not None:
                self.fixed[Sink(name)] = Span(first, last)
        highest, self.stored_bytes = self._connection.execute(
            "SELECT coalesce(max(position), 0), coalesce(sum(length(body)), 0) FROM exchanges"
        ).fetchone()
        # Rows go once every sink has them, so an empty table does not mean that counting starts over.
        self.last_position: int = max(highest, *self.acknowledged.values())

    def append(self, bodies: Sequence[bytes]) -> Span:
        """Add exchanges, at most ``ROWS_PER_INSERT``, after the last, and return where they are."""
        values = ", ".join(["(?, ?)"] * len(bodies))
        numbered = [value for row in enumerate(bodies, self.last_position + 1) for value in row]
        self._connection.execute(f"INSERT INTO exchanges VALUES {values}", numbered)  # noqa: S608 - only question marks
        span = Span(self.last_position + 1, self.last_position + len(bodies))
        self.last_position = span.last
        self.stored_bytes += sum(map(len, bodies))
        return span

    def fix(self, sink: Sink, limit: int) -> Span | None:
        """Return the batch that the sink has to take next, fixing its members; None if there is nothing to take."""
        span = self.fixed.get(sink)
        first = self.acknowledged[sink] + 1
        if span is not None or first > self.last_position:
            return span
        span = Span(first, min(first + limit - 1, self.last_position))
        self._connection.execute(
            "UPDATE sinks SET batch_first = ?, batch_last = ? WHERE name = ?", (span.first, span.last, sink.value)
        )
        self.fixed[sink] = span
        return span

    def acknowledge(self, sink: Sink, last: int) -> None:
        """Move the sink on to a position and delete what every sink has; going back changes nothing."""
        if last <= self.acknowledged[sink]:
            return
        everybody_has = min(last, *(a for other, a in self.acknowledged.items() if other is not sink))
        with self._transaction():
            self._connection.execute(
                "UPDATE sinks SET acknowledged = ?, batch_first = NULL, batch_last = NULL WHERE name = ?",
                (last, sink.value),
            )
            (freed,) = self._connection.execute(
                "SELECT coalesce(sum(length(body)), 0) FROM exchanges WHERE position <= ?", (everybody_has,)
            ).fetchone()
            self._connection.execute("DELETE FROM exchanges WHERE position <= ?", (everybody_has,))
        self.acknowledged[sink] = last
        self.fixed.pop(sink, None)
        self.stored_bytes -= freed

    def drop_traces(self, wanted_bytes: int) -> int:
        """Delete what only the traces wait for, oldest first, until so many bytes are free; return how many went.

        A batch that is fixed goes as a whole, also where PostgreSQL still waits for some of it, which then stays for
        that: part of it under another token could be stored twice.
        """
        first, last = self.acknowledged[Sink.TRACES] + 1, self.acknowledged[Sink.CHECKPOINTS]
        fixed = self.fixed.get(Sink.TRACES)
        if last < first:
            return 0
        through = freed = 0
        for position, size in self._connection.execute(
            "SELECT position, length(body) FROM exchanges WHERE position BETWEEN ? AND ? ORDER BY position",
            (first, last),
        ):
            through, freed = position, freed + size
            if freed >= wanted_bytes:
                break
        through = max(through, fixed.last if fixed is not None else 0)
        self.acknowledge(Sink.TRACES, through)
        return through - first + 1

    def probe(self) -> None:
        """Write something that changes nothing, and look that there is room for more.

        What is that small may fit where a group of exchanges does not. Raises ``JournalFullError``.
        """
        self._connection.execute("UPDATE journal SET id = id")
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < LEAST_ROOM_BYTES:
            raise JournalFullError("the journal's disk is almost full")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite itself has rolled back after some errors.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class SecondConnection:
    """Reads the file, and copies the write-ahead log into it, while the store writes. For one other thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def bodies(self, span: Span) -> list[bytes]:
        """Return the exchanges of a span. Raises ``sqlite3.Error``."""
        rows = self._execute(
            "SELECT body FROM exchanges WHERE position BETWEEN ? AND ? ORDER BY position", span.first, span.last
        )
        return [body for (body,) in rows]

    def checkpoint(self) -> None:
        """Copy what is committed from the log into the file, without making the store wait. Raises nothing."""
        with suppress(sqlite3.Error):  # it will be copied later
            self._execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def all_bodies(self) -> list[bytes]:
        """Return every exchange that is there. Raises ``sqlite3.Error``."""
        return [body for (body,) in self._execute("SELECT body FROM exchanges ORDER BY position")]

    def _execute(self, statement: str, *parameters: int) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
            )
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error:
            self.close()  # the next call starts afresh
            raise
