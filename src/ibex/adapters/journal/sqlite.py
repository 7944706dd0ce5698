"""The ``Journal`` on SQLite: one thread commits in groups, another reads and checkpoints. The event loop never blocks.

The event loop queues appends. The writer takes at most ``ROWS_PER_INSERT`` of them at a time, inserts them with one
statement in its own transaction, and reports all of them with one call into the loop. Concurrent requests thereby share
a commit, and a single request does not wait for others.

In SQLite's write-ahead mode a commit survives the death of the process, even by SIGKILL. With ``sync="full"`` it is
also flushed to the disk and survives a power loss.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ibex.adapters.journal.dead_letters import append_dead_letter
from ibex.adapters.journal.directories import IN_FLIGHT_LOG, JOURNAL, Claim, claim
from ibex.adapters.journal.encoding import NewerExchangeError, UnreadableExchangeError, decode, encode
from ibex.adapters.journal.in_flight_log import InFlightLog
from ibex.adapters.journal.oldest_pending import OldestPending
from ibex.adapters.journal.recent import RecentExchanges
from ibex.adapters.journal.sink_progress import STUCK_AFTER_S, SinkProgress
from ibex.adapters.journal.store import CHECKPOINT_BYTES, BackgroundConnection, Span, Store
from ibex.adapters.journal.writer import ROW_BYTES, Append, Group, Snapshot, Writer, unavailable
from ibex.domain.record.journal import Batch, JournalUnavailableError, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ibex.domain.ids import IdSource
    from ibex.domain.record.exchange import Exchange

MAX_BYTES: Final = 1 << 30
_DROP_DIVISOR: Final = 16
"""A full journal drops a sixteenth of its maximum size at a time, so that most appends need not drop anything."""


class SqliteJournal:
    """A journal in its own directory, for one process. The constructor does not access the disk."""

    def __init__(
        self,
        directory: Path | str,
        ids: IdSource,
        *,
        sync: str = "normal",
        max_bytes: int = MAX_BYTES,
        claim: Callable[[Path], Claim] = claim,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the directory and the limits.

        ``sync`` is ``normal`` or ``full``. ``max_bytes`` is the maximum size of the pending exchanges; ``Journal``
        defines what happens beyond it. ``claim`` locks the directory, or one below it. ``now_s`` is a
        monotonic clock.
        """
        if sync not in {"normal", "full"}:
            raise ValueError(f"sync must be normal or full, not {sync!r}")
        self._directory = Path(directory)
        self._claim = claim
        self._ids = ids
        self._full_sync = sync == "full"
        self.max_bytes = max_bytes
        """The maximum size, in bytes, of the pending exchanges."""
        self._queued_bytes = 0
        self._since_checkpoint = 0
        self._recent = RecentExchanges()
        self._oldest_pending = OldestPending()
        self._progress = SinkProgress(now_s)
        self._snapshot = Snapshot(0, 0, dict.fromkeys(Sink, 0))
        self._has_pending = {sink: asyncio.Event() for sink in Sink}
        self._left_open: list[Exchange] = []
        self._making_room: set[asyncio.Task[None]] = set()
        self._claimed: Claim | None = None
        self._writer: Writer | None = None
        self._in_flight_log: InFlightLog | None = None
        self.traces_dropped = 0
        """The number of exchanges that were dropped before the traces had them, because the journal was full."""

    async def open(self) -> None:
        """Lock the directory, create it if necessary, and read what a former process left there.

        Raises ``JournalInUseError`` if another process has it open, ``JournalFullError`` if the disk is full or fails,
        after which the caller can retry, and otherwise ``JournalUnavailableError``.
        """
        self._recent = RecentExchanges()
        self._oldest_pending = OldestPending()
        try:
            self._claimed = await asyncio.to_thread(self._claim, self._directory)
            self._in_flight_log = InFlightLog(self._claimed.path / IN_FLIGHT_LOG)
        except OSError as error:
            await self.close()
            raise unavailable(error, self._directory) from None
        path = self._claimed.path / JOURNAL
        self._connection = BackgroundConnection(path)
        self._background = ThreadPoolExecutor(1, thread_name_prefix="ibex-journal-background")
        try:
            self._writer = Writer(path, self._ids, full_sync=self._full_sync, on_group=self._on_group)
            self._writer.start()
            self._journal_id = await self._writer.call(lambda store: store.journal_id)
            self._left_open = await self._in_background(self._read_left_open, self._in_flight_log)
            await self._in_background(self._read_oldest_pending)
        except OSError as error:
            await self.close()
            raise unavailable(error, self._directory) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Commit everything that is queued, and release the directory. Idempotent, also without ``open``."""
        writer, self._writer = self._writer, None
        if writer is not None:
            if self._making_room:
                await asyncio.wait(self._making_room)
            await writer.stop()
            self._background.submit(self._connection.close)
            await asyncio.to_thread(self._background.shutdown)
        in_flight_log, self._in_flight_log = self._in_flight_log, None
        if in_flight_log is not None:
            in_flight_log.clear_released()
            in_flight_log.close()
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            claimed.release()

    async def ping(self) -> None:
        """Raise ``JournalUnavailableError`` unless the journal accepts exchanges, has room, and its sinks progress."""
        await self._require_writer().call(Store.probe)
        if self._bytes() + self.max_bytes // _DROP_DIVISOR > self.max_bytes:
            raise JournalUnavailableError(f"the journal is almost full (maximum {self.max_bytes:,} bytes)")
        stuck = self._progress.stuck()
        if stuck is not None:
            raise JournalUnavailableError(
                f"no {stuck} have been delivered for {STUCK_AFTER_S:g} s, and some are pending"
            )

    def begin(self, exchange: Exchange) -> None:
        """Write an exchange to the in-flight log. Never raises; see ``Journal``."""
        if self._in_flight_log is not None:
            body = _encode_or_none(exchange)
            if body is not None:
                self._in_flight_log.write(exchange.id, body)

    def unfinished(self) -> Sequence[Exchange]:
        """Return the exchanges that a former process of this directory began and did not finish."""
        return list(self._left_open)

    def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        """Queue an exchange for the next commit; see ``Journal``."""
        writer = self._writer
        if writer is None:
            done(JournalUnavailableError("the journal is not open"))
            return
        body = _encode_or_none(exchange)
        if body is None:
            self._remove_lost(exchange)
            done(JournalUnavailableError("the journal cannot encode this exchange"))
            return
        append = Append(exchange, body, done)
        if self._bytes() + append.size > self.max_bytes:
            task = asyncio.create_task(self._make_room_and_append(writer, append))
            self._making_room.add(task)
            task.add_done_callback(self._making_room.discard)
            return
        self._queue(writer, append)

    async def _make_room_and_append(self, writer: Writer, append: Append) -> None:
        try:
            if self._bytes() + append.size > self.max_bytes:
                await self._make_room(writer, append.size)
        except JournalUnavailableError as error:
            self._remove_lost(append.exchange)
            append.done(error)
        else:
            self._queue(writer, append)

    def _queue(self, writer: Writer, append: Append) -> None:
        self._queued_bytes += append.size
        writer.append(append)

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return the sink's next batch, None if there is nothing to deliver. Its members are fixed on disk.

        A batch that was fixed with another limit keeps its members. A row that cannot be decoded becomes a dead letter
        and is missing from the batch. Raises ``JournalUnavailableError``.
        """
        writer = self._require_writer()
        if self.depth(sink) == 0:
            return None
        span = await writer.call(lambda store: store.fix_batch(sink, limit))
        if span is None:
            return None
        exchanges = self._recent.get(span)
        if exchanges is None:
            exchanges = await self._in_background(self._read, sink, span)
        return Batch(f"{self._journal_id}-{span.first}-{span.last}", span.last, exchanges)

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Record that the sink has the batch. Raises ``JournalUnavailableError``; the batch is then delivered again."""
        writer = self._require_writer()
        if self._in_flight_log is not None:
            self._in_flight_log.clear_released()  # the exchanges of their entries may now be deleted
        await writer.call(lambda store: store.acknowledge(sink, batch.last_position))

    async def dead_letter(self, sink: Sink, exchange: Exchange, reason: str) -> None:
        """Append an exchange to the dead-letter file; see ``dead_letters``."""
        if self._claimed is not None:
            letter = {"id": exchange.id, "exchange": msgspec.to_builtins(exchange)}
            await self._in_background(append_dead_letter, self._claimed.path, sink, reason, letter)

    async def wait_for_more(self, sink: Sink, timeout_s: float) -> None:
        """Wait until there is an exchange that the sink has not acknowledged, or for the timeout in seconds."""
        event = self._has_pending[sink]
        event.clear()
        if self.depth(sink):
            return
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass

    def depth(self, sink: Sink) -> int:
        """Return the number of committed exchanges that the sink has not acknowledged."""
        return self._snapshot.last_position - self._snapshot.acknowledged[sink]

    def stored_bytes(self) -> int:
        """Return the total size, in bytes, of the pending exchanges."""
        return self._snapshot.stored_bytes

    def pending_since(self, sink: Sink) -> datetime | None:
        """Return the time since which the oldest exchange for the sink is pending, None if nothing is."""
        if self.depth(sink) <= 0:
            return None
        return self._oldest_pending.at(self._snapshot.acknowledged[sink] + 1)

    def _bytes(self) -> int:
        snapshot = self._snapshot
        rows = snapshot.last_position - min(snapshot.acknowledged.values())
        return snapshot.stored_bytes + rows * ROW_BYTES + self._queued_bytes

    async def _make_room(self, writer: Writer, size: int) -> None:
        """Drop exchanges that only the traces need. Raises ``JournalUnavailableError`` if that is not enough."""
        wanted = max(size, self.max_bytes // _DROP_DIVISOR)
        dropped = await writer.call(lambda store: store.drop_traces(wanted))
        self.traces_dropped += dropped  # not read before the await, during which another task can change it
        if self._bytes() + size > self.max_bytes:
            raise JournalUnavailableError(f"the journal is full (maximum {self.max_bytes:,} bytes)")

    def _remove_lost(self, exchange: Exchange) -> None:
        """Remove the in-flight entry of an exchange that is counted as lost. It would otherwise appear as unfinished.

        An entry of a former process stays, so that the next start finds it again.
        """
        if self._in_flight_log is not None and all(exchange.id != left.id for left in self._left_open):
            self._in_flight_log.remove(exchange.id)

    def _require_writer(self) -> Writer:
        if self._writer is None:
            raise JournalUnavailableError("the journal is not open")
        return self._writer

    def _on_group(self, group: Group) -> None:
        """Update the state in memory after the writer has processed a group."""
        if group.snapshot is not None:
            self._snapshot = group.snapshot
            self._progress.update(group.snapshot)
        size = sum(append.size for append in group.appends)
        self._queued_bytes -= size
        self._since_checkpoint += size
        if self._since_checkpoint > CHECKPOINT_BYTES:
            self._since_checkpoint = 0
            self._background.submit(self._connection.checkpoint)
        if isinstance(group.appended, Span):
            self._recent.add(group.appended, [append.exchange for append in group.appends])
            self._oldest_pending.add(group.appended.first, group.appends[0].exchange.completed_at)
            if self._in_flight_log is not None:
                for append in group.appends:
                    self._in_flight_log.release(append.exchange.id)
        else:
            for append in group.appends:
                self._remove_lost(append.exchange)
        acknowledged = min(self._snapshot.acknowledged.values())
        self._recent.discard_through(acknowledged)
        self._oldest_pending.discard_through(acknowledged)
        for sink, event in self._has_pending.items():
            if self.depth(sink):
                event.set()

    async def _in_background(self, run: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._background, run, *arguments)

    # The methods below run in the background thread.

    def _read(self, sink: Sink, span: Span) -> Sequence[Exchange]:
        try:
            bodies = self._connection.bodies(span)
        except sqlite3.Error as error:
            raise unavailable(error, self._directory) from None
        exchanges = []
        for body in bodies:
            try:
                exchanges.append(decode(body))
            except NewerExchangeError as error:  # not a dead letter: a newer version can deliver it
                raise JournalUnavailableError(str(error)) from None
            except UnreadableExchangeError as error:
                if self._claimed is not None:
                    append_dead_letter(self._claimed.path, sink, str(error), {"body": body.hex()})
        return exchanges

    def _read_oldest_pending(self) -> None:
        """Set the age of the exchanges that a former process left. All of them count as old as the first."""
        first = min(self._snapshot.acknowledged.values()) + 1
        with suppress(sqlite3.Error):
            for body in self._connection.bodies(Span(first, first)):
                exchange = _decode_or_none(body)
                if exchange is not None:
                    self._oldest_pending.add(first, exchange.completed_at)

    def _read_left_open(self, in_flight_log: InFlightLog) -> list[Exchange]:
        """Return the unfinished exchanges of the in-flight log.

        An exchange can be committed although its entry is still there; such entries are cleared.
        """
        entries = in_flight_log.read_entries()
        if not entries:
            return []
        try:
            ended = {_id(body) for body in self._connection.all_bodies()}
        except sqlite3.Error as error:
            raise unavailable(error, self._directory) from None
        left = []
        for slot, body in entries:
            exchange = _decode_or_none(body)
            if exchange is None or exchange.id in ended:
                in_flight_log.clear(slot)
            else:
                in_flight_log.adopt(exchange.id, slot)
                left.append(exchange)
        return left


def _encode_or_none(exchange: Exchange) -> bytes | None:
    try:
        return encode(exchange)
    except (ValueError, OverflowError):  # not chained: its message contains the text that UTF-8 cannot encode
        return None


def _decode_or_none(body: bytes) -> Exchange | None:
    try:
        return decode(body)
    except UnreadableExchangeError:
        return None


def _id(body: bytes) -> object:
    exchange = _decode_or_none(body)
    return exchange.id if exchange is not None else None
