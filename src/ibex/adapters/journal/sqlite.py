"""The journal on SQLite: one thread writes and commits in groups, one reads and tidies, the event loop waits for none.

Appends are queued from the event loop; the writer takes what has queued, at most ``ROWS_PER_INSERT``, writes it as one
statement that is its own transaction, and wakes all who wait for it with one call into the loop. So a commit is shared
by concurrent requests and a lone one does not wait for company.

In SQLite's write-ahead mode a commit survives the death of the process, also by SIGKILL; with ``sync="full"`` it is
flushed to the disk and survives a power loss as well.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ibex.adapters.journal.dead_letters import append_dead_letter
from ibex.adapters.journal.directories import JOURNAL, Claim, claim
from ibex.adapters.journal.encoding import UnreadableExchangeError, decode, encode
from ibex.adapters.journal.in_flight_log import InFlightLog
from ibex.adapters.journal.oldest_pending import OldestPending
from ibex.adapters.journal.recent import RecentExchanges
from ibex.adapters.journal.store import CHECKPOINT_BYTES, SecondConnection, Span, Store
from ibex.adapters.journal.writer import ROW_BYTES, Group, Snapshot, Writer, unavailable
from ibex.domain.record.journal import Batch, JournalUnavailableError, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ibex.domain.ids import IdSource
    from ibex.domain.record.exchange import Exchange

MAX_BYTES: Final = 1 << 30
_NOTES: Final = "under-way"
_SHARE_DROPPED: Final = 16
"""A full journal drops a sixteenth of its bound at a time, so that not every append has to."""


class SqliteJournal:
    """A journal in a directory of its own, for one process. Constructing it touches nothing."""

    def __init__(
        self,
        directory: Path | str,
        ids: IdSource,
        *,
        sync: str = "normal",
        max_bytes: int = MAX_BYTES,
        claim: Callable[[Path], Claim] = claim,
    ) -> None:
        """Take ``sync`` as normal or full. More than ``max_bytes`` of exchanges do not wait; see ``Journal``.

        ``claim`` takes hold of the directory, or of one below it.
        """
        if sync not in {"normal", "full"}:
            raise ValueError("sync is normal or full")
        self._directory = Path(directory)
        self._claim = claim
        self._ids = ids
        self._full_sync = sync == "full"
        self._max_bytes = max_bytes
        self._queued_bytes = 0
        self._since_checkpoint = 0
        self._recent = RecentExchanges()
        self._ages = OldestPending()
        self._known = Snapshot(0, 0, dict.fromkeys(Sink, 0))
        self._more = {sink: asyncio.Event() for sink in Sink}
        self._left_open: list[Exchange] = []
        self._held: Claim | None = None
        self._writer: Writer | None = None
        self._in_flight_log: InFlightLog | None = None
        self.traces_dropped = 0
        """How many exchanges the traces will never get, for want of room."""

    async def open(self) -> None:
        """Take hold of the directory, creating it, and find what was left there.

        Raises ``JournalInUseError`` if another process has it open, ``JournalFullError`` if the disk has no room now;
        then it can be tried again; else ``JournalUnavailableError``.
        """
        self._recent = RecentExchanges()
        self._ages = OldestPending()
        try:
            self._held = await asyncio.to_thread(self._claim, self._directory)
            self._in_flight_log = InFlightLog(self._held.path / _NOTES)
        except OSError as error:
            await self.close()
            raise unavailable(error, self._directory) from None
        path = self._held.path / JOURNAL
        self._second = SecondConnection(path)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="ibex-journal-aside")
        self._writer = Writer(path, self._ids, full_sync=self._full_sync, on_group=self._recorder)
        self._writer.start()
        try:
            self._journal_id = await self._writer.do(lambda store: store.journal_id)
            self._left_open = await self._on_the_side(self._find_left_open, self._in_flight_log)
            await self._on_the_side(self._find_oldest)
        except OSError as error:
            await self.close()
            raise unavailable(error, self._directory) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Commit what is queued and let go of the directory; doing it again, or without having opened, does nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.stop()
            self._aside.submit(self._second.close)
            await asyncio.to_thread(self._aside.shutdown)
        in_flight_log, self._in_flight_log = self._in_flight_log, None
        if in_flight_log is not None:
            in_flight_log.close()
        held, self._held = self._held, None
        if held is not None:
            held.release()

    async def ping(self) -> None:
        """Return if exchanges can be kept now, and for a while. Raises ``JournalUnavailableError``."""
        await self._open_writer().do(Store.probe)
        if self._bytes() + self._max_bytes // _SHARE_DROPPED > self._max_bytes:
            raise JournalUnavailableError("the journal is almost full")

    def begin(self, exchange: Exchange) -> None:
        """Note an exchange that is under way. Raises nothing."""
        if self._in_flight_log is not None:
            body = _encoded(exchange)
            if body is not None:
                self._in_flight_log.note(exchange.id, body)

    def left_open(self) -> Sequence[Exchange]:
        """Return what whoever had the journal before began and did not end."""
        return list(self._left_open)

    def append(self, exchange: Exchange) -> asyncio.Future[None]:
        """Begin to commit an exchange; see ``Journal``."""
        writer = self._writer
        if writer is None:
            return _failed("the journal is not open")
        body = _encoded(exchange)
        if body is None:
            self._wipe_lost(exchange)
            return _failed("the journal cannot encode this exchange")
        if self._bytes() + len(body) + ROW_BYTES > self._max_bytes:
            return asyncio.ensure_future(self._append_once_there_is_room(writer, exchange, body))
        return self._queued(writer, exchange, body)

    async def _append_once_there_is_room(self, writer: Writer, exchange: Exchange, body: bytes) -> None:
        size = len(body) + ROW_BYTES
        try:
            if self._bytes() + size > self._max_bytes:
                await self._make_room(writer, size)
        except JournalUnavailableError:
            self._wipe_lost(exchange)
            raise
        await self._queued(writer, exchange, body)

    def _queued(self, writer: Writer, exchange: Exchange, body: bytes) -> asyncio.Future[None]:
        self._queued_bytes += len(body) + ROW_BYTES
        return writer.append(exchange, body).done

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return the sink's next batch, its members fixed on disk; None if there is nothing.

        Raises ``JournalUnavailableError``. A batch that was fixed with another limit keeps its members. What cannot be
        read any more is laid aside and not among them.
        """
        writer = self._open_writer()
        if self.depth(sink) == 0:
            return None
        span = await writer.do(lambda store: store.fix(sink, limit))
        if span is None:
            return None
        exchanges = self._recent.get(span)
        if exchanges is None:
            exchanges = await self._on_the_side(self._read, sink, span)
        return Batch(f"{self._journal_id}-{span.first}-{span.last}", span.last, exchanges)

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Record that the sink has the batch. Raises ``JournalUnavailableError``; the batch then comes again."""
        await self._open_writer().do(lambda store: store.acknowledge(sink, batch.last_position))

    async def dead_letter(self, sink: Sink, exchange: Exchange, reason: str) -> None:
        """Lay an exchange aside; see ``dead_letters``."""
        if self._held is not None:
            letter = {"id": exchange.id, "exchange": msgspec.to_builtins(exchange)}
            await self._on_the_side(append_dead_letter, self._held.path, sink, reason, letter)

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

    def stored_bytes(self) -> int:
        """Return how many bytes of exchanges wait for a sink."""
        return self._known.stored_bytes

    def waits_since(self, sink: Sink) -> datetime | None:
        """Return since when the oldest exchange that the sink has not acknowledged has waited."""
        return self._ages.at(self._known.acknowledged[sink] + 1) if self.depth(sink) > 0 else None

    def _bytes(self) -> int:
        known = self._known
        waiting = known.last_position - min(known.acknowledged.values())
        return known.stored_bytes + waiting * ROW_BYTES + self._queued_bytes

    async def _make_room(self, writer: Writer, size: int) -> None:
        """Drop what only the traces wait for. Raises ``JournalUnavailableError`` where that is not enough."""
        wanted = max(size, self._max_bytes // _SHARE_DROPPED)
        dropped = await writer.do(lambda store: store.drop_traces(wanted))
        self.traces_dropped += dropped  # read after the wait: others count meanwhile
        if self._bytes() + size > self._max_bytes:
            raise JournalUnavailableError(f"the journal holds its maximum of {self._max_bytes:,} bytes")

    def _wipe_lost(self, exchange: Exchange) -> None:
        """Remove the note of what is counted as lost now: kept, it would say one day that it did not end.

        What somebody else had begun stays, to be found again.
        """
        if self._in_flight_log is not None and all(exchange.id != left.id for left in self._left_open):
            self._in_flight_log.wipe(exchange.id)

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise JournalUnavailableError("the journal is not open")
        return self._writer

    def _recorder(self, group: Group) -> None:
        """Take note of what the writer has done."""
        if group.snapshot is not None:
            self._known = group.snapshot
        size = sum(append.size for append in group.appends)
        self._queued_bytes -= size
        self._since_checkpoint += size
        if self._since_checkpoint > CHECKPOINT_BYTES:
            self._since_checkpoint = 0
            self._aside.submit(self._second.checkpoint)
        if isinstance(group.where, Span):
            self._recent.add(group.where, [append.exchange for append in group.appends])
            self._ages.add(group.where.first, group.appends[0].exchange.completed_at)
            if self._in_flight_log is not None:
                for append in group.appends:
                    self._in_flight_log.wipe(append.exchange.id)
        else:
            for append in group.appends:
                self._wipe_lost(append.exchange)
        acknowledged = min(self._known.acknowledged.values())
        self._recent.forget(acknowledged)
        self._ages.forget(acknowledged)
        for sink, event in self._more.items():
            if self.depth(sink):
                event.set()

    async def _on_the_side(self, run: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._aside, run, *arguments)

    # In the other thread:

    def _read(self, sink: Sink, span: Span) -> Sequence[Exchange]:
        try:
            bodies = self._second.bodies(span)
        except sqlite3.Error as error:
            raise unavailable(error, self._directory) from None
        exchanges = []
        for body in bodies:
            try:
                exchanges.append(decode(body))
            except UnreadableExchangeError as error:
                if self._held is not None:
                    append_dead_letter(self._held.path, sink, str(error), {"body": body.hex()})
        return exchanges

    def _find_oldest(self) -> None:
        """Note since when what was found waits; all of it as long as its first."""
        first = min(self._known.acknowledged.values()) + 1
        with suppress(sqlite3.Error):
            for body in self._second.bodies(Span(first, first)):
                exchange = _decoded(body)
                if exchange is not None:
                    self._ages.add(first, exchange.completed_at)

    def _find_left_open(self, in_flight_log: InFlightLog) -> list[Exchange]:
        """Return the notes of exchanges that did not end: a commit may have come, and its note's wiping not."""
        notes = in_flight_log.found()
        if not notes:
            return []
        try:
            ended = {_id(body) for body in self._second.all_bodies()}
        except sqlite3.Error as error:
            raise unavailable(error, self._directory) from None
        left = []
        for slot, body in notes:
            exchange = _decoded(body)
            if exchange is None or exchange.id in ended:
                in_flight_log.free(slot)
            else:
                in_flight_log.claim(exchange.id, slot)
                left.append(exchange)
        return left


def _failed(why: str) -> asyncio.Future[None]:
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(JournalUnavailableError(why))
    return failed


def _encoded(exchange: Exchange) -> bytes | None:
    try:
        return encode(exchange)
    except (ValueError, OverflowError):  # its message would hold the text that UTF-8 has no bytes for
        return None


def _decoded(body: bytes) -> Exchange | None:
    try:
        return decode(body)
    except UnreadableExchangeError:
        return None


def _id(body: bytes) -> object:
    exchange = _decoded(body)
    return exchange.id if exchange is not None else None
