"""The journal on SQLite: one thread writes and commits in groups, one reads and tidies, the event loop touches no disk.

Appends are queued from the event loop; the writer takes what has queued, at most ``ROWS_PER_INSERT``, writes it as one
statement that is its own transaction, and wakes all who wait for it with one call into the loop. So a commit is shared
by concurrent requests and a lone one does not wait for company.

In SQLite's write-ahead mode a commit survives the death of the process, also by SIGKILL; with ``sync="full"`` it is
flushed to the disk and survives a power loss as well.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.journal.encoding import UnreadableExchangeError, decode, encode
from ibex.adapters.journal.recent import RecentExchanges
from ibex.adapters.journal.store import CHECKPOINT_BYTES, ROWS_PER_INSERT, SecondConnection, Span, Store
from ibex.domain.journal import Batch, JournalUnavailableError, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.domain.exchange import Exchange
    from ibex.domain.ids import IdSource

MAX_BYTES: Final = 1 << 30
# What a row costs besides its body: its header, its key, its share of the page.
_ROW_BYTES: Final = 16


class JournalInUseError(JournalUnavailableError):
    """Another process has the journal open; the message says which."""


@dataclass(slots=True)
class _Append:
    exchange: Exchange
    body: bytes
    done: asyncio.Future[None]


@dataclass(slots=True)
class _Work:
    run: Callable[[Store], Any]
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What the event loop knows of the store, as of the last transaction."""

    last_position: int
    stored_bytes: int
    acknowledged: dict[Sink, int]


class SqliteJournal:
    """A journal in a directory of its own, for one process. Constructing it touches nothing."""

    def __init__(
        self, directory: Path | str, ids: IdSource, *, sync: str = "normal", max_bytes: int = MAX_BYTES
    ) -> None:
        """Take ``sync`` as normal or full. Above ``max_bytes`` of exchanges waiting, ``append`` refuses."""
        if sync not in {"normal", "full"}:
            raise ValueError("sync is normal or full")
        self._directory = Path(directory)
        self._ids = ids
        self._full_sync = sync == "full"
        self._max_bytes = max_bytes
        self._queued_bytes = 0
        self._since_checkpoint = 0
        self._recent = RecentExchanges()
        self._known = _Snapshot(0, 0, dict.fromkeys(Sink, 0))
        self._more = {sink: asyncio.Event() for sink in Sink}
        self._queue: queue.SimpleQueue[_Append | _Work | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._store: Store | None = None
        self._journal_id = ""
        self._lock: int | None = None

    async def open(self) -> None:
        """Take hold of the directory, creating it, and find what was left there.

        Raises ``JournalInUseError`` if another process has it open, else ``JournalUnavailableError``.
        """
        self._loop = asyncio.get_running_loop()
        self._recent = RecentExchanges()
        try:
            await asyncio.to_thread(self._claim)
        except OSError as error:
            raise JournalUnavailableError(f"the journal's directory cannot be used ({error.strerror})") from None
        self._second = SecondConnection(self._path)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="ibex-journal-aside")
        self._writer = threading.Thread(target=self._write, name="ibex-journal-writer", daemon=True)
        self._writer.start()
        try:
            self._journal_id = await self._in_writer(lambda store: store.journal_id)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Commit what is queued and let go of the directory; doing it again, or without having opened, does nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._queue.put(None)
            await asyncio.to_thread(writer.join)
            self._aside.submit(self._second.close)
            await asyncio.to_thread(self._aside.shutdown)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    async def append(self, exchange: Exchange) -> None:
        """Return once the exchange is committed. Raises ``JournalUnavailableError``."""
        if self._writer is None:
            raise JournalUnavailableError("the journal is not open")
        try:
            body = encode(exchange)
        except (ValueError, OverflowError):  # its message would hold the text that UTF-8 has no bytes for
            raise JournalUnavailableError("the journal cannot encode this exchange") from None
        size = len(body) + _ROW_BYTES
        if self._bytes() + size > self._max_bytes:
            raise JournalUnavailableError(f"the journal holds its maximum of {self._max_bytes:,} bytes")
        self._queued_bytes += size
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Append(exchange, body, done))
        await done

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return the sink's next batch, its members fixed on disk; None if there is nothing.

        Raises ``JournalUnavailableError``. A batch that was fixed with another limit keeps its members.
        """
        if self._writer is None:
            raise JournalUnavailableError("the journal is not open")
        if self.depth(sink) == 0:
            return None
        span = await self._in_writer(lambda store: store.fix(sink, limit))
        if span is None:
            return None
        exchanges = self._recent.get(span)
        if exchanges is None:
            exchanges = await self._loop.run_in_executor(self._aside, self._read, span)
        return Batch(f"{self._journal_id}-{span.first}-{span.last}", span.last, exchanges)

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Record that the sink has the batch. Raises ``JournalUnavailableError``; the batch then comes again."""
        await self._in_writer(lambda store: store.acknowledge(sink, batch.last_position))

    async def wait_for_more(self, sink: Sink, timeout_s: float) -> None:
        """Return once there is something that the sink has not acknowledged, or after the timeout in seconds."""
        event = self._more[sink]
        event.clear()
        if self.depth(sink):
            return
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass

    def depth(self, sink: Sink) -> int:
        """Return how many committed exchanges the sink has not acknowledged."""
        return self._known.last_position - self._known.acknowledged[sink]

    @property
    def _path(self) -> Path:
        return self._directory / "journal.sqlite"

    def _bytes(self) -> int:
        waiting = max(self.depth(sink) for sink in Sink)
        return self._known.stored_bytes + waiting * _ROW_BYTES + self._queued_bytes

    def _claim(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace") or "unknown"
            os.close(lock)
            raise JournalInUseError(f"process {holder} has the journal open") from None
        except OSError:
            os.close(lock)
            raise
        self._lock = lock

    async def _in_writer(self, run: Callable[[Store], Any]) -> Any:
        if self._writer is None:
            raise JournalUnavailableError("the journal is not open")
        done: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Work(run, done))
        return await done

    def _read(self, span: Span) -> Sequence[Exchange]:
        try:
            return [decode(body) for body in self._second.bodies(span)]
        except (sqlite3.Error, UnreadableExchangeError) as error:
            raise _unavailable(error) from None

    # From here on: the writer thread.

    def _write(self) -> None:
        closing = False
        while not closing:
            appends, works, closing = self._take()
            where = self._attempt(partial(_append, bodies=[append.body for append in appends])) if appends else None
            done = [(work, self._attempt(work.run)) for work in works]
            self._loop.call_soon_threadsafe(self._settle, appends, where, done, self._snapshot())
        self._close_store()

    def _take(self) -> tuple[list[_Append], list[_Work], bool]:
        """Wait for something to do and return all there is of it, appends apart; the flag says that it is the last."""
        appends: list[_Append] = []
        works: list[_Work] = []
        item = self._queue.get()
        while item is not None:
            if isinstance(item, _Append):
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
            return _unavailable(error)

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with suppress(sqlite3.Error):  # what was committed is in the file all the same
                store.close()

    def _snapshot(self) -> _Snapshot | None:
        store = self._store
        return _Snapshot(store.last_position, store.stored_bytes, dict(store.acknowledged)) if store else None

    # And here the event loop again.

    def _settle(
        self,
        appends: Sequence[_Append],
        where: Span | JournalUnavailableError | None,
        done: Sequence[tuple[_Work, Any]],
        snapshot: _Snapshot | None,
    ) -> None:
        if snapshot is not None:
            self._known = snapshot
        size = sum(len(append.body) + _ROW_BYTES for append in appends)
        self._queued_bytes -= size
        self._since_checkpoint += size
        if self._since_checkpoint > CHECKPOINT_BYTES:
            self._since_checkpoint = 0
            self._aside.submit(self._second.checkpoint)
        if isinstance(where, Span):
            self._recent.add(where, [append.exchange for append in appends])
        self._recent.forget(min(self._known.acknowledged.values()))
        for append in appends:
            _wake(append.done, None if isinstance(where, Span) else where)
        for work, outcome in done:
            _wake(work.done, outcome)
        for sink, event in self._more.items():
            if self.depth(sink):
                event.set()


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


def _unavailable(error: Exception) -> JournalUnavailableError:
    reason = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return JournalUnavailableError(f"the journal cannot be used ({reason})")
