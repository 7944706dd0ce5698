"""The thread that writes the journal: it takes what has queued, commits it as one group, and tells the event loop."""

from __future__ import annotations

import asyncio
import errno
import queue
import sqlite3
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.journal.store import ROWS_PER_INSERT, Span, Store
from ibex.domain.record.journal import JournalFullError, JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ibex.domain.ids import IdSource
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.journal import Sink

# What a row costs besides its body: its header, its key, its share of the page.
ROW_BYTES: Final = 16


@dataclass(slots=True)
class Append:
    """An exchange to be kept; ``done`` is told when it is, or why it is not."""

    exchange: Exchange
    body: bytes
    done: asyncio.Future[None]

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return len(self.body) + ROW_BYTES


@dataclass(slots=True)
class Work:
    """Anything else that is to be done with the store."""

    run: Callable[[Store], Any]
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of the store, as of the last transaction."""

    last_position: int
    stored_bytes: int
    acknowledged: dict[Sink, int]


@dataclass(frozen=True, slots=True)
class Group:
    """What was done together. ``where`` says where the appends are, or why nowhere; ``snapshot`` is None if unknown."""

    appends: Sequence[Append]
    where: Span | JournalUnavailableError | None
    works: Sequence[tuple[Work, Any]]
    snapshot: Snapshot | None


class Writer:
    """Runs from ``start`` to ``stop``; ``on_group`` is called in the event loop, for each group in its order."""

    def __init__(self, path: Path, ids: IdSource, *, full_sync: bool, on_group: Callable[[Group], None]) -> None:
        self._path = path
        self._ids = ids
        self._full_sync = full_sync
        self._on_group = on_group
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Append | Work | None] = queue.SimpleQueue()
        self._store: Store | None = None
        self._thread = threading.Thread(target=self._run, name="ibex-journal-writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def append(self, exchange: Exchange, body: bytes) -> Append:
        """Queue an exchange."""
        append = Append(exchange, body, self._loop.create_future())
        self._queue.put(append)
        return append

    async def do(self, run: Callable[[Store], Any]) -> Any:
        """Return what ``run`` returns. Raises ``JournalUnavailableError``."""
        work = Work(run, self._loop.create_future())
        self._queue.put(work)
        try:
            return await work.done
        finally:
            del work  # which may have the error, whose traceback has this frame (ADR 0033)

    async def stop(self) -> None:
        """Do what is queued and end."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        closing = False
        while not closing:
            appends, works, closing = self._take()
            where = self._attempt(partial(_append, bodies=[append.body for append in appends])) if appends else None
            done = [(work, self._attempt(work.run)) for work in works]
            group = Group(appends, where, done, self._snapshot())
            self._loop.call_soon_threadsafe(self._tell, group)
        self._close_store()

    def _take(self) -> tuple[list[Append], list[Work], bool]:
        """Wait for something to do and return all there is of it, appends apart; the flag says that it is the last."""
        appends: list[Append] = []
        works: list[Work] = []
        item = self._queue.get()
        while item is not None:
            if isinstance(item, Append):
                appends.append(item)
            else:
                works.append(item)
            if len(appends) == ROWS_PER_INSERT:
                return appends, works, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return appends, works, False
        return appends, works, True

    def _attempt(self, run: Callable[[Store], Any]) -> Any:
        """Return what ``run`` returns, or the error that tells why it did not happen."""
        try:
            if self._store is None:
                self._store = Store(self._path, self._ids.uuid7(), full_sync=self._full_sync)
            return run(self._store)
        except JournalUnavailableError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever happens, those who wait are told and the thread goes on
            if not _is_disk_full(error):
                # After an I/O error only a fresh look at the file tells what is in it.
                self._close_store()
            return unavailable(error, self._path.parent)

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with suppress(sqlite3.Error):  # what was committed is in the file all the same
                store.close()

    def _snapshot(self) -> Snapshot | None:
        store = self._store
        return Snapshot(store.last_position, store.stored_bytes, dict(store.acknowledged)) if store else None

    def _tell(self, group: Group) -> None:
        """Hand the group over, then wake its waiters. Runs in the event loop."""
        self._on_group(group)
        for append in group.appends:
            _wake(append.done, None if isinstance(group.where, Span) else group.where)
        for work, outcome in group.works:
            _wake(work.done, outcome)


def unavailable(error: Exception, directory: Path) -> JournalUnavailableError:
    """Return what an error of the disk that holds a directory means, without its text."""
    kind = JournalFullError if _is_of_the_disk(error) else JournalUnavailableError
    if isinstance(error, OSError):
        return kind(f"the journal's directory {directory} cannot be used ({error.strerror})")
    reason = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return kind(f"the journal in {directory} cannot be used ({reason})")


def _append(store: Store, *, bodies: Sequence[bytes]) -> Span:
    return store.append(bodies)


def _wake(waiting: asyncio.Future[Any], outcome: Any) -> None:
    if waiting.done():  # who waited was cancelled
        return
    if isinstance(outcome, BaseException):
        waiting.set_exception(outcome)
    else:
        waiting.set_result(outcome)


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _is_of_the_disk(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):  # the low byte is the family of what follows
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
