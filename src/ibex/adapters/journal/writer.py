"""The journal's writer thread: it commits queued exchanges in groups, and reports each group to the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import sqlite3
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ibex.adapters.journal.store import ROWS_PER_INSERT, Span, Store
from ibex.domain.record.journal import JournalFullError, JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.domain.ids import IdSource
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.journal import Sink

# The overhead of a row besides its body: its header, its key, its share of the page.
ROW_BYTES: Final = 16
_NAME_BYTES: Final = 15
_MAX_WAKE_UPS: Final = 4_096


@dataclass(slots=True)
class Append:
    """A queued exchange. ``done`` is called in the event loop when it is committed, or with an error if it is not."""

    exchange: Exchange
    body: bytes
    done: Callable[[JournalUnavailableError | None], None]

    @property
    def size(self) -> int:
        """The number of bytes that the exchange takes in the file."""
        return len(self.body) + ROW_BYTES


@dataclass(slots=True)
class StoreCall:
    """A queued call of the store, other than an append."""

    run: Callable[[Store], Any]
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the store after its last transaction."""

    last_position: int
    stored_bytes: int
    acknowledged: dict[Sink, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Appends and calls that were processed together.

    ``appended`` is the positions of the appends, or the error if they were not committed; None without appends.
    ``snapshot`` is None if the store is closed.
    """

    appends: Sequence[Append]
    appended: Span | JournalUnavailableError | None
    calls: Sequence[tuple[StoreCall, Any]]
    snapshot: Snapshot | None


class Writer:
    """The writer thread. It calls ``on_group`` in the event loop, once for each group, in order."""

    def __init__(self, path: Path, ids: IdSource, *, full_sync: bool, on_group: Callable[[Group], None]) -> None:
        """Set the file and the callback. Raises ``OSError`` if no file descriptor is left."""
        self._path = path
        self._ids = ids
        self._full_sync = full_sync
        self._on_group = on_group
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Append | StoreCall | None] = queue.SimpleQueue()
        self._appended_in_turn: list[Append] = []
        self._groups: deque[Group] = deque()
        self._wakes_up, self._wake_up = os.pipe()
        for end in (self._wakes_up, self._wake_up):
            os.set_blocking(end, False)
        self._store: Store | None = None
        self._thread = threading.Thread(target=self._run, name="ibex-journal-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._loop.add_reader(self._wakes_up, self._woken_up)
        self._thread.start()

    def append(self, append: Append) -> None:
        """Queue an exchange for the next group, at the end of the loop's current turn.

        Waking the thread costs a context switch, and the loop usually holds the interpreter lock until its turn ends.
        """
        if not self._appended_in_turn:
            self._loop.call_soon(self._hand_over)
        self._appended_in_turn.append(append)

    async def call(self, run: Callable[[Store], Any]) -> Any:
        """Return the result of ``run``, called with the store in the thread. Raises ``JournalUnavailableError``."""
        call = StoreCall(run, self._loop.create_future())
        self._hand_over()
        self._queue.put(call)
        try:
            return await call.done
        finally:
            del call  # breaks a cycle: its future holds the error, whose traceback holds this frame (ADR 0033)

    async def stop(self) -> None:
        """Process and report everything that is queued, then end the thread."""
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._report()
        self._loop.remove_reader(self._wakes_up)
        os.close(self._wakes_up)
        os.close(self._wake_up)

    def _hand_over(self) -> None:
        """Queue the appends of this turn of the loop. Only the first one can wake the thread."""
        appends, self._appended_in_turn = self._appended_in_turn, []
        for append in appends:
            self._queue.put(append)

    def _run(self) -> None:
        _show_name(self._thread.name)
        _yield_to_the_loop()
        closing = False
        while not closing:
            appends, calls, closing = self._take()
            appended = self._attempt(partial(_append, bodies=[append.body for append in appends])) if appends else None
            done = [(call, self._attempt(call.run)) for call in calls]
            group = Group(appends, appended, done, self._snapshot())
            self._groups.append(group)
            # ``call_soon_threadsafe`` wakes the loop while this thread holds the interpreter lock, for which the loop
            # then waits at once. ``os.write`` releases it first: 7.2 instead of 8.2 context switches for each request.
            with suppress(BlockingIOError):  # so many wake-ups are waiting that another one changes nothing
                os.write(self._wake_up, b"\0")
        self._close_store()

    def _take(self) -> tuple[list[Append], list[StoreCall], bool]:
        """Wait for the queue, and return its appends, its calls, and whether ``stop`` was called after them."""
        appends: list[Append] = []
        calls: list[StoreCall] = []
        item = self._queue.get()
        while item is not None:
            if isinstance(item, Append):
                appends.append(item)
            else:
                calls.append(item)
            if len(appends) == ROWS_PER_INSERT:
                return appends, calls, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return appends, calls, False
        return appends, calls, True

    def _attempt(self, run: Callable[[Store], Any]) -> Any:
        """Return the result of ``run``, or the ``JournalUnavailableError`` that it failed with."""
        try:
            if self._store is None:
                self._store = Store(self._path, self._ids.uuid7(), full_sync=self._full_sync)
            return run(self._store)
        except JournalUnavailableError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the waiting futures must complete, and the thread must go on
            if not _is_disk_full(error):
                # After an I/O error the state in memory may be wrong; reopening reads it from the file.
                self._close_store()
            return unavailable(error, self._path.parent)

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with suppress(sqlite3.Error):  # committed transactions are already in the file
                store.close()

    def _snapshot(self) -> Snapshot | None:
        store = self._store
        return Snapshot(store.last_position, store.stored_bytes, dict(store.acknowledged)) if store else None

    def _woken_up(self) -> None:
        """Read the wake-ups, then report. The next group, which may come in between, has its own wake-up."""
        os.read(self._wakes_up, _MAX_WAKE_UPS)
        self._report()

    def _report(self) -> None:
        while self._groups:
            self._complete(self._groups.popleft())

    def _complete(self, group: Group) -> None:
        """Call ``on_group``, then report to each append and call of the group. Runs in the event loop."""
        self._on_group(group)
        error = None if isinstance(group.appended, Span) else group.appended
        for append in group.appends:
            try:
                append.done(error)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as bug:  # noqa: BLE001 - it must not keep the others of the group waiting
                self._loop.call_exception_handler({"message": "cannot report an append", "exception": bug})
        for call, outcome in group.calls:
            _set_outcome(call.done, outcome)


def _show_name(name: str) -> None:
    """Show the thread's name in tools such as ``top -H``. Before Python 3.14, only Python knows it."""
    with suppress(OSError):  # not Linux, or /proc is not mounted
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name[:_NAME_BYTES], encoding="ascii")


def _yield_to_the_loop() -> None:
    """Keep this thread, when it is woken, from preempting the event loop, whose interpreter lock it would wait for.

    9.7 became 8.2 context switches for each request, at 400 a second on two cores (ADR 0067). Needs no privilege.
    """
    with suppress(AttributeError, OSError):  # not Linux, or a sandbox forbids it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def unavailable(error: Exception, directory: Path) -> JournalUnavailableError:
    """Return the domain error for an error of the journal in this directory, without the original message."""
    kind = JournalFullError if _is_disk_error(error) else JournalUnavailableError
    if isinstance(error, OSError):
        return kind(f"the journal's directory {directory} cannot be used ({error.strerror})")
    reason = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return kind(f"the journal in {directory} cannot be used ({reason})")


def _append(store: Store, *, bodies: Sequence[bytes]) -> Span:
    return store.append(bodies)


def _set_outcome(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # the waiting task was cancelled
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _is_disk_full(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _is_disk_error(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):  # the low byte of an extended code is its primary code
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
