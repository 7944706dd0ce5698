"""The journal's SQLite file: exchanges by position, and the position of each sink. Synchronous, for one thread.

Positions have no gaps and are never reused, so their difference is a number of exchanges. Every public method is one
transaction, and raises ``sqlite3.Error`` if the transaction fails.
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
# Rows of one INSERT. Each statement releases the interpreter lock and must regain it from a busy event loop, so a group
# is inserted with one statement instead of one for each row.
ROWS_PER_INSERT: Final = 256
# After this many appended bytes, the background connection checkpoints the write-ahead log.
CHECKPOINT_BYTES: Final = 500_000
# If the log still reaches this many pages of 4 KiB, the writer checkpoints it. That bounds the log, but the commit then
# waits for two flushes of the disk.
_WRITER_CHECKPOINT_PAGES: Final = 4_000
MIN_FREE_BYTES: Final = 1 << 20
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
    """A range of consecutive positions, both ends included."""

    first: int
    last: int


class Store:
    """An open journal file. ``last_position`` is 0 before the first exchange; ``stored_bytes`` counts bodies only."""

    def __init__(self, path: Path, new_id: UUID, *, full_sync: bool) -> None:
        """Open the file, or create it with ``new_id`` as its journal id.

        Raises ``sqlite3.Error`` or ``OSError``, and ``JournalUnavailableError`` if a newer version wrote the file.
        """
        self.path = path
        # SQLite creates the -wal and -shm files with the mode of this one.
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
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {_WRITER_CHECKPOINT_PAGES}")
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise JournalUnavailableError(
                f"the journal {self.path} has format {found}; this version of IBEX supports formats up to {FORMAT}"
            )
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
        self.fixed_batches: dict[Sink, Span] = {}
        for name, acknowledged, first, last in self._connection.execute("SELECT * FROM sinks"):
            self.acknowledged[Sink(name)] = acknowledged
            if first is not None:
                self.fixed_batches[Sink(name)] = Span(first, last)
        highest, self.stored_bytes = self._connection.execute(
            "SELECT coalesce(max(position), 0), coalesce(sum(length(body)), 0) FROM exchanges"
        ).fetchone()
        # Acknowledged rows are deleted, so an empty table does not mean that positions restart.
        self.last_position: int = max(highest, *self.acknowledged.values())

    def append(self, bodies: Sequence[bytes]) -> Span:
        """Insert at most ``ROWS_PER_INSERT`` exchanges after the last position, and return their positions."""
        values = ", ".join(["(?, ?)"] * len(bodies))
        numbered = [value for row in enumerate(bodies, self.last_position + 1) for value in row]
        self._connection.execute(f"INSERT INTO exchanges VALUES {values}", numbered)  # noqa: S608 - contains only placeholders
        span = Span(self.last_position + 1, self.last_position + len(bodies))
        self.last_position = span.last
        self.stored_bytes += sum(map(len, bodies))
        return span

    def fix_batch(self, sink: Sink, limit: int) -> Span | None:
        """Return the sink's next batch, None if there is nothing to deliver. Its members stay fixed from then on."""
        span = self.fixed_batches.get(sink)
        first = self.acknowledged[sink] + 1
        if span is not None or first > self.last_position:
            return span
        span = Span(first, min(first + limit - 1, self.last_position))
        self._connection.execute(
            "UPDATE sinks SET batch_first = ?, batch_last = ? WHERE name = ?", (span.first, span.last, sink.value)
        )
        self.fixed_batches[sink] = span
        return span

    def acknowledge(self, sink: Sink, last: int) -> None:
        """Advance the sink to a position, and delete exchanges that every sink has. A lower position has no effect."""
        if last <= self.acknowledged[sink]:
            return
        acknowledged_by_all = min(last, *(a for other, a in self.acknowledged.items() if other is not sink))
        with self._transaction():
            self._connection.execute(
                "UPDATE sinks SET acknowledged = ?, batch_first = NULL, batch_last = NULL WHERE name = ?",
                (last, sink.value),
            )
            (freed,) = self._connection.execute(
                "SELECT coalesce(sum(length(body)), 0) FROM exchanges WHERE position <= ?", (acknowledged_by_all,)
            ).fetchone()
            self._connection.execute("DELETE FROM exchanges WHERE position <= ?", (acknowledged_by_all,))
        self.acknowledged[sink] = last
        self.fixed_batches.pop(sink, None)
        self.stored_bytes -= freed

    def drop_traces(self, wanted_bytes: int) -> int:
        """Drop exchanges that only the traces still need, oldest first, to free this many bytes. Return their number.

        A fixed batch is dropped as a whole, because a part of it under another token could be stored twice. Members of
        it that the checkpoints still need stay in the file for them.
        """
        first, last = self.acknowledged[Sink.TRACES] + 1, self.acknowledged[Sink.CHECKPOINTS]
        fixed = self.fixed_batches.get(Sink.TRACES)
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
        """Check that the file is writable and that its disk has ``MIN_FREE_BYTES`` free.

        A successful write alone proves little, since a group of exchanges is larger. Raises ``JournalFullError``.
        """
        self._connection.execute("UPDATE journal SET id = id")
        disk = os.statvfs(self.path.parent)
        if disk.f_bavail * disk.f_frsize < MIN_FREE_BYTES:
            raise JournalFullError(f"the disk of the journal {self.path} is almost full")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # After some errors SQLite has already rolled back.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class BackgroundConnection:
    """A connection that reads and checkpoints the file while the store writes to it. For one other thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def bodies(self, span: Span) -> list[bytes]:
        """Return the encoded exchanges of a span. Raises ``sqlite3.Error``."""
        rows = self._execute(
            "SELECT body FROM exchanges WHERE position BETWEEN ? AND ? ORDER BY position", span.first, span.last
        )
        return [body for (body,) in rows]

    def checkpoint(self) -> None:
        """Copy committed pages from the write-ahead log into the file, without blocking the store. Never raises."""
        with suppress(sqlite3.Error):  # the next checkpoint copies them
            self._execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def all_bodies(self) -> list[bytes]:
        """Return every encoded exchange in the file. Raises ``sqlite3.Error``."""
        return [body for (body,) in self._execute("SELECT body FROM exchanges ORDER BY position")]

    def _execute(self, statement: str, *parameters: int) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
            )
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error:
            self.close()  # the next call reconnects
            raise
