"""Tests of the SQLite journal beyond the contract suite: crashes, full disks, and several processes."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.journal_entries import new_exchange
from ibex.adapters.journal.directories import JournalInUseError
from ibex.adapters.journal.encoding import encode
from ibex.adapters.journal.recent import MAX_EXCHANGES
from ibex.adapters.journal.sink_progress import STUCK_AFTER_S
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.journal.store import CHECKPOINT_BYTES
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import JournalUnavailableError, Sink, append_and_wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ENOUGH = 200


@asynccontextmanager
async def opened(directory: Path, **arguments: Any) -> AsyncIterator[SqliteJournal]:
    """Hold a journal open."""
    journal = SqliteJournal(directory, SystemIds(), **arguments)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def _process(what: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness.journal_process", what, str(directory)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_every_acknowledged_append_survives_sigkill(tmp_path: Path) -> None:
    """Every append that had completed is in the journal after the process was killed under load."""
    with _process("append", tmp_path) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(ENOUGH)]
        process.kill()
        said += [line.strip() for line in process.stdout if len(line) == len(said[0]) + 1]
    async with opened(tmp_path) as journal:
        batch = await journal.next_batch(Sink.TRACES, 1_000_000)
        assert batch is not None
        kept = [str(exchange.id) for exchange in batch.exchanges]
    assert set(said) <= set(kept)
    assert len(kept) == len(set(kept))


async def test_a_full_disk_fails_appends_until_there_is_room(tmp_path: Path) -> None:
    """The exchanges that were committed before remain complete."""
    with _process("fill", tmp_path) as process:
        assert process.stdout is not None
        kept, delivered = map(int, process.stdout.read().split())
    assert process.returncode == 0
    assert kept > 10
    assert delivered == kept + 1


async def test_an_unacknowledged_batch_is_returned_again_after_a_restart(tmp_path: Path) -> None:
    """The journal stores a batch's exchanges and token on disk before it returns the batch."""
    async with opened(tmp_path) as journal:
        for _ in range(3):
            await append_and_wait(journal, new_exchange())
        before = await journal.next_batch(Sink.TRACES, 2)
    async with opened(tmp_path) as journal:
        await append_and_wait(journal, new_exchange())
        assert await journal.next_batch(Sink.TRACES, 100) == before
        assert journal.depth(Sink.TRACES) == 4


async def test_positions_survive_a_restart(tmp_path: Path) -> None:
    """A sink does not get acknowledged exchanges again."""
    exchanges = [new_exchange() for _ in range(3)]
    async with opened(tmp_path) as journal:
        for exchange in exchanges:
            await append_and_wait(journal, exchange)
        batch = await journal.next_batch(Sink.TRACES, 2)
        assert batch is not None
        await journal.acknowledge(Sink.TRACES, batch)
    async with opened(tmp_path) as journal:
        traces = await journal.next_batch(Sink.TRACES, 100)
        checkpoints = await journal.next_batch(Sink.CHECKPOINTS, 100)
    assert traces is not None
    assert checkpoints is not None
    assert list(traces.exchanges) == exchanges[2:]
    assert list(checkpoints.exchanges) == exchanges


async def test_two_journals_have_different_batch_tokens(tmp_path: Path) -> None:
    """Two journals never use the same token for different batches."""
    tokens = set()
    for name in ("a", "b"):
        async with opened(tmp_path / name) as journal:
            await append_and_wait(journal, new_exchange())
            batch = await journal.next_batch(Sink.TRACES, 1)
            assert batch is not None
            tokens.add(batch.token)
    assert len(tokens) == 2


async def test_only_the_owner_has_access(tmp_path: Path) -> None:
    """The directory is 0700 and its files are 0600, independent of the umask and the former mode."""
    directory = tmp_path / "deep" / "journal"
    directory.mkdir(parents=True, mode=0o755)
    umask = os.umask(0)
    try:
        async with opened(directory) as journal:
            await append_and_wait(journal, new_exchange())
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    finally:
        os.umask(umask)
    files = ("lock", "under-way", "journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm")
    assert modes == dict.fromkeys(files, 0o600)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_second_process_cannot_open_the_journal(tmp_path: Path) -> None:
    """The error contains the owner's process id. The second can open the journal after the first closed it."""
    async with opened(tmp_path) as journal:
        with pytest.raises(JournalInUseError, match=str(os.getpid())):
            await SqliteJournal(tmp_path, SystemIds()).open()
        await append_and_wait(journal, new_exchange())
    async with opened(tmp_path) as journal:
        assert journal.depth(Sink.TRACES) == 1


async def test_a_directory_that_cannot_be_created_fails_to_open(tmp_path: Path) -> None:
    """A file already has its name. The journal leaves nothing open."""
    (tmp_path / "journal").write_text("")
    journal = SqliteJournal(tmp_path / "journal", SystemIds())
    with pytest.raises(JournalUnavailableError, match="directory"):
        await journal.open()
    await journal.close()


async def test_a_file_that_is_not_a_journal_fails_to_open(tmp_path: Path) -> None:
    """The error names the kind of damage, and the lock is released."""
    (tmp_path / "journal.sqlite").write_bytes(b"not a database " * 100)
    for _ in range(2):
        with pytest.raises(JournalUnavailableError, match="SQLITE_NOTADB"):
            await SqliteJournal(tmp_path, SystemIds()).open()


async def test_a_stalled_disk_does_not_hold_the_event_loop(tmp_path: Path) -> None:
    """Exchanges can begin and be appended meanwhile. Each is reported once the disk goes on, and none is lost.

    A lock on the file stalls every commit, as a slow disk does.
    """
    async with opened(tmp_path) as journal:
        outcomes: list[JournalUnavailableError | None] = []
        other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for _ in range(10):
            exchange = new_exchange()
            journal.begin(exchange)
            journal.append(exchange, outcomes.append)
            await asyncio.sleep(0)
        assert journal.depth(Sink.TRACES) == 0
        stalled = list(outcomes)
        other.execute("ROLLBACK")
        other.close()
        last = new_exchange()
        await append_and_wait(journal, last)
        assert (stalled, outcomes) == ([], [None] * 10)
        batch = await journal.next_batch(Sink.TRACES, 100)
        assert batch is not None
        assert (len(batch.exchanges), batch.exchanges[-1]) == (11, last)


async def test_closing_commits_queued_appends(tmp_path: Path) -> None:
    """An append that is queued when the journal is closed is not lost."""
    async with opened(tmp_path) as journal:
        appending = [asyncio.create_task(append_and_wait(journal, new_exchange())) for _ in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*appending)
    async with opened(tmp_path) as journal:
        assert journal.depth(Sink.TRACES) == 50


async def test_a_journal_that_is_not_open_raises(tmp_path: Path) -> None:
    """This applies before it is opened and after it is closed. Closing is idempotent."""
    journal = SqliteJournal(tmp_path, SystemIds())
    await journal.close()
    for _ in range(2):
        with pytest.raises(JournalUnavailableError, match="not open"):
            await append_and_wait(journal, new_exchange())
        with pytest.raises(JournalUnavailableError, match="not open"):
            await journal.next_batch(Sink.TRACES, 1)
        await journal.open()
        await journal.close()
        await journal.close()


async def test_a_backlog_is_read_from_disk(tmp_path: Path) -> None:
    """Exchanges beyond the buffer in memory are returned in order, and the write-ahead log stays small."""
    exchange = new_exchange()
    number = MAX_EXCHANGES + 500
    async with opened(tmp_path) as journal:
        await asyncio.gather(*(append_and_wait(journal, exchange) for _ in range(number)))
        taken = 0
        while (batch := await journal.next_batch(Sink.TRACES, 1_000)) is not None:
            assert set(batch.exchanges) == {exchange}
            taken += len(batch.exchanges)
            await journal.acknowledge(Sink.TRACES, batch)
        log = (tmp_path / "journal.sqlite-wal").stat().st_size
    assert taken == number
    assert number * len(encode(exchange)) > CHECKPOINT_BYTES
    assert log < 32_000_000


async def test_pending_since_is_the_time_of_the_oldest_unacknowledged_exchange(tmp_path: Path) -> None:
    """Each sink has its own time, which survives a restart."""
    exchanges = [new_exchange() for _ in range(3)]
    async with opened(tmp_path) as journal:
        assert journal.pending_since(Sink.TRACES) is None
        for exchange in exchanges:
            await append_and_wait(journal, exchange)
        batch = await journal.next_batch(Sink.TRACES, 2)
        assert batch is not None
        await journal.acknowledge(Sink.TRACES, batch)
        assert journal.pending_since(Sink.TRACES) == exchanges[2].completed_at
        assert journal.pending_since(Sink.CHECKPOINTS) == exchanges[0].completed_at
    async with opened(tmp_path) as journal:
        assert journal.pending_since(Sink.CHECKPOINTS) == exchanges[0].completed_at
        batch = await journal.next_batch(Sink.CHECKPOINTS, 3)
        assert batch is not None
        await journal.acknowledge(Sink.CHECKPOINTS, batch)
        assert journal.pending_since(Sink.CHECKPOINTS) is None


async def test_a_damaged_exchange_becomes_a_dead_letter(tmp_path: Path) -> None:
    """It is kept byte for byte, and the others of its batch are delivered."""
    async with opened(tmp_path) as journal:
        for _ in range(3):
            await append_and_wait(journal, new_exchange())
    damage = sqlite3.connect(tmp_path / "journal.sqlite")
    damage.execute("UPDATE exchanges SET body = x'c1' WHERE position = 2")
    damage.commit()
    damage.close()
    async with opened(tmp_path) as journal:
        batch = await journal.next_batch(Sink.TRACES, 10)
        assert batch is not None
        assert len(batch.exchanges) == 2
        await journal.acknowledge(Sink.TRACES, batch)
        assert journal.depth(Sink.TRACES) == 0
    (letter,) = map(json.loads, (tmp_path / "dead-letters.jsonl").read_text().splitlines())
    assert (letter["sink"], letter["body"]) == ("traces", "c1")


async def test_unfinished_exchanges_survive_sigkill(tmp_path: Path) -> None:
    """The next process finds exactly the unfinished ones. Appending one finishes it."""
    with _process("begin", tmp_path) as process:
        assert process.stdout is not None
        ended, *left = process.stdout.readline().split()
        process.kill()
    async with opened(tmp_path) as journal:
        found = journal.unfinished()
        assert [str(exchange.id) for exchange in found] == left
        assert ended not in left
        for exchange in found:
            await append_and_wait(journal, exchange)
    async with opened(tmp_path) as journal:
        assert journal.unfinished() == []
        assert journal.depth(Sink.TRACES) == 1 + len(left)


async def test_a_committed_exchange_with_an_in_flight_entry_counts_once(tmp_path: Path) -> None:
    """A process can die between the commit and the removal of the entry."""
    exchange = new_exchange()
    async with opened(tmp_path) as journal:
        journal.begin(exchange)
        notes = (tmp_path / "under-way").read_bytes()
        await append_and_wait(journal, exchange)
    (tmp_path / "under-way").write_bytes(notes)
    async with opened(tmp_path) as journal:
        assert journal.unfinished() == []
        assert journal.depth(Sink.TRACES) == 1


async def test_an_exchange_that_is_deleted_leaves_no_in_flight_entry(tmp_path: Path) -> None:
    """A process that dies after that would otherwise record it again."""
    exchange, running = new_exchange(), new_exchange()
    async with opened(tmp_path) as journal:
        journal.begin(exchange)
        journal.begin(running)
        await append_and_wait(journal, exchange)
        for sink in Sink:
            batch = await journal.next_batch(sink, 1)
            assert batch is not None
            await journal.acknowledge(sink, batch)
        entries = (tmp_path / "under-way").read_bytes()
    (tmp_path / "under-way").write_bytes(entries)
    async with opened(tmp_path) as journal:
        assert journal.unfinished() == [running]


async def test_a_lost_exchange_leaves_no_in_flight_entry(tmp_path: Path) -> None:
    """Otherwise it would occupy its slot forever, and the next process would record the exchange as unfinished."""
    lost = new_exchange()
    async with opened(tmp_path, max_bytes=100) as journal:
        journal.begin(lost)
        with pytest.raises(JournalUnavailableError):
            await append_and_wait(journal, lost)
    async with opened(tmp_path) as journal:
        assert journal.unfinished() == []


async def test_an_unfinished_exchange_that_cannot_be_appended_is_found_again(tmp_path: Path) -> None:
    """A journal that is full at the start does not lose it."""
    left = new_exchange()
    async with opened(tmp_path) as journal:
        journal.begin(left)
    async with opened(tmp_path, max_bytes=100) as journal:
        with pytest.raises(JournalUnavailableError):
            await append_and_wait(journal, journal.unfinished()[0])
    async with opened(tmp_path) as journal:
        assert [exchange.id for exchange in journal.unfinished()] == [left.id]


async def test_an_in_flight_entry_that_cannot_be_written_is_ignored(tmp_path: Path) -> None:
    """An entry only matters if the process dies."""
    async with opened(tmp_path) as journal:
        journal.begin(new_exchange(model="m" * 3_000))
        await append_and_wait(journal, new_exchange())
    async with opened(tmp_path) as journal:
        assert journal.unfinished() == []


async def test_ping_fails_if_the_journal_is_almost_full_or_closed(tmp_path: Path) -> None:
    """It succeeds while the journal accepts exchanges."""
    async with opened(tmp_path, max_bytes=100_000) as journal:
        await journal.ping()
        with suppress(JournalUnavailableError):
            while True:
                await append_and_wait(journal, new_exchange())
        with pytest.raises(JournalUnavailableError, match="almost full"):
            await journal.ping()
    with pytest.raises(JournalUnavailableError):
        await journal.ping()


async def test_a_batch_that_is_being_delivered_is_dropped_as_a_whole(tmp_path: Path) -> None:
    """A part of it under another token could be stored twice."""
    async with opened(tmp_path, max_bytes=200_000) as journal:
        for _ in range(50):
            await append_and_wait(journal, new_exchange())
        first = await journal.next_batch(Sink.TRACES, 40)
        checkpoints = await journal.next_batch(Sink.CHECKPOINTS, 1_000)
        assert first is not None
        assert checkpoints is not None
        await journal.acknowledge(Sink.CHECKPOINTS, checkpoints)
        while not journal.traces_dropped:
            await append_and_wait(journal, new_exchange())
        assert journal.traces_dropped >= 40
        await journal.acknowledge(Sink.TRACES, first)
        second = await journal.next_batch(Sink.TRACES, 1_000)
        assert second is not None
        assert not {e.id for e in first.exchanges} & {e.id for e in second.exchanges}


async def test_an_exchange_that_cannot_be_encoded_is_rejected(tmp_path: Path) -> None:
    """The error does not quote the invalid text, and the journal accepts later exchanges."""
    async with opened(tmp_path) as journal:
        with pytest.raises(JournalUnavailableError) as caught:
            await append_and_wait(journal, new_exchange(model="canary\ud800"))
        assert "canary" not in str(caught.value)
        await append_and_wait(journal, new_exchange())
        assert journal.depth(Sink.TRACES) == 1


async def test_errors_contain_no_part_of_an_exchange(tmp_path: Path) -> None:
    """The error of a full journal contains only its maximum size."""
    async with opened(tmp_path, max_bytes=100) as journal:
        with pytest.raises(JournalUnavailableError) as caught:
            await append_and_wait(journal, new_exchange(model="canary"))
    assert "canary" not in str(caught.value)


def test_an_unknown_sync_is_rejected(tmp_path: Path) -> None:
    """Only normal and full are valid."""
    with pytest.raises(ValueError, match="normal or full"):
        SqliteJournal(tmp_path, SystemIds(), sync="off")


async def test_readiness_reports_a_stuck_sink(tmp_path: Path) -> None:
    """Exchanges wait, and the sink acknowledges none of them, although the database may answer pings."""
    now_s = 0.0
    async with opened(tmp_path, now_s=lambda: now_s) as journal:
        await append_and_wait(journal, new_exchange())
        now_s = STUCK_AFTER_S - 1
        await append_and_wait(journal, new_exchange())
        await journal.ping()
        now_s = STUCK_AFTER_S + 1
        with pytest.raises(JournalUnavailableError, match="no checkpoints have been delivered for 30 s"):
            await journal.ping()
        for sink in Sink:
            batch = await journal.next_batch(sink, 1)
            assert batch is not None
            await journal.acknowledge(sink, batch)
        await journal.ping()
