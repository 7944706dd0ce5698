"""What the journal on SQLite promises beyond the contract: crashes, disks, processes."""

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
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.journal.store import CHECKPOINT_BYTES
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import JournalUnavailableError, Sink

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
    """Whatever append had returned for is there after the process was killed under load."""
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


async def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    """Append refuses while nothing can be written, and takes again once it can; what was kept stays, in full."""
    with _process("fill", tmp_path) as process:
        assert process.stdout is not None
        kept, delivered = map(int, process.stdout.read().split())
    assert process.returncode == 0
    assert kept > 10
    assert delivered == kept + 1


async def test_the_same_batch_comes_again_after_a_restart(tmp_path: Path) -> None:
    """Members and token are on disk before a batch is handed out."""
    async with opened(tmp_path) as journal:
        for _ in range(3):
            await journal.append(new_exchange())
        before = await journal.next_batch(Sink.TRACES, 2)
    async with opened(tmp_path) as journal:
        await journal.append(new_exchange())
        assert await journal.next_batch(Sink.TRACES, 100) == before
        assert journal.depth(Sink.TRACES) == 4


async def test_positions_are_remembered_over_a_restart(tmp_path: Path) -> None:
    """What a sink has acknowledged does not come again."""
    exchanges = [new_exchange() for _ in range(3)]
    async with opened(tmp_path) as journal:
        for exchange in exchanges:
            await journal.append(exchange)
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


async def test_a_journal_of_its_own_has_tokens_of_its_own(tmp_path: Path) -> None:
    """Two journals never give one token for different batches."""
    tokens = set()
    for name in ("a", "b"):
        async with opened(tmp_path / name) as journal:
            await journal.append(new_exchange())
            batch = await journal.next_batch(Sink.TRACES, 1)
            assert batch is not None
            tokens.add(batch.token)
    assert len(tokens) == 2


async def test_only_the_owner_may_look(tmp_path: Path) -> None:
    """The directory is 0700 and every file in it 0600, whatever the umask and whatever it was before."""
    directory = tmp_path / "deep" / "journal"
    directory.mkdir(parents=True, mode=0o755)
    umask = os.umask(0)
    try:
        async with opened(directory) as journal:
            await journal.append(new_exchange())
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    finally:
        os.umask(umask)
    files = ("lock", "under-way", "journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm")
    assert modes == dict.fromkeys(files, 0o600)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_second_opening_fails_and_says_who_has_it(tmp_path: Path) -> None:
    """One process at a time; the first is not disturbed, and after it the second may."""
    async with opened(tmp_path) as journal:
        with pytest.raises(JournalInUseError, match=str(os.getpid())):
            await SqliteJournal(tmp_path, SystemIds()).open()
        await journal.append(new_exchange())
    async with opened(tmp_path) as journal:
        assert journal.depth(Sink.TRACES) == 1


async def test_a_directory_that_cannot_be_made_fails_to_open(tmp_path: Path) -> None:
    """A file in the way is told, and nothing is left half open."""
    (tmp_path / "journal").write_text("")
    journal = SqliteJournal(tmp_path / "journal", SystemIds())
    with pytest.raises(JournalUnavailableError, match="directory"):
        await journal.open()
    await journal.close()


async def test_a_file_that_is_no_journal_fails_to_open(tmp_path: Path) -> None:
    """The error names the kind of damage; the lock is let go."""
    (tmp_path / "journal.sqlite").write_bytes(b"not a database " * 100)
    for _ in range(2):
        with pytest.raises(JournalUnavailableError, match="SQLITE_NOTADB"):
            await SqliteJournal(tmp_path, SystemIds()).open()


async def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    """An append that was under way when the journal was closed is there after it."""
    async with opened(tmp_path) as journal:
        appending = [journal.append(new_exchange()) for _ in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*appending)
    async with opened(tmp_path) as journal:
        assert journal.depth(Sink.TRACES) == 50


async def test_a_closed_journal_refuses(tmp_path: Path) -> None:
    """Before it is opened and after it is closed, every operation says so; closing twice is fine."""
    journal = SqliteJournal(tmp_path, SystemIds())
    await journal.close()
    for _ in range(2):
        with pytest.raises(JournalUnavailableError, match="not open"):
            await journal.append(new_exchange())
        with pytest.raises(JournalUnavailableError, match="not open"):
            await journal.next_batch(Sink.TRACES, 1)
        await journal.open()
        await journal.close()
        await journal.close()


async def test_a_backlog_is_read_from_disk(tmp_path: Path) -> None:
    """More than memory keeps comes in order all the same, and the log beside the file stays small."""
    exchange = new_exchange()
    number = MAX_EXCHANGES + 500
    async with opened(tmp_path) as journal:
        await asyncio.gather(*(journal.append(exchange) for _ in range(number)))
        taken = 0
        while (batch := await journal.next_batch(Sink.TRACES, 1_000)) is not None:
            assert set(batch.exchanges) == {exchange}
            taken += len(batch.exchanges)
            await journal.acknowledge(Sink.TRACES, batch)
        log = (tmp_path / "journal.sqlite-wal").stat().st_size
    assert taken == number
    assert number * len(encode(exchange)) > CHECKPOINT_BYTES
    assert log < 32_000_000


async def test_a_journal_tells_since_when_the_oldest_waits(tmp_path: Path) -> None:
    """For each sink; over a restart, and no more once the sink has it."""
    exchanges = [new_exchange() for _ in range(3)]
    async with opened(tmp_path) as journal:
        assert journal.pending_since(Sink.TRACES) is None
        for exchange in exchanges:
            await journal.append(exchange)
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


async def test_a_damaged_exchange_is_laid_aside(tmp_path: Path) -> None:
    """It is in the dead letters, byte for byte, and the others of its batch are delivered."""
    async with opened(tmp_path) as journal:
        for _ in range(3):
            await journal.append(new_exchange())
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


async def test_what_is_under_way_outlives_sigkill(tmp_path: Path) -> None:
    """What was begun and not ended is found by the next process, what was ended is not, and appending it is its end."""
    with _process("begin", tmp_path) as process:
        assert process.stdout is not None
        ended, *left = process.stdout.readline().split()
        process.kill()
    async with opened(tmp_path) as journal:
        found = journal.left_open()
        assert [str(exchange.id) for exchange in found] == left
        assert ended not in left
        for exchange in found:
            await journal.append(exchange)
    async with opened(tmp_path) as journal:
        assert journal.left_open() == []
        assert journal.depth(Sink.TRACES) == 1 + len(left)


async def test_a_commit_whose_note_was_not_wiped_counts_once(tmp_path: Path) -> None:
    """A process may die between the two."""
    exchange = new_exchange()
    async with opened(tmp_path) as journal:
        journal.begin(exchange)
        notes = (tmp_path / "under-way").read_bytes()
        await journal.append(exchange)
    (tmp_path / "under-way").write_bytes(notes)
    async with opened(tmp_path) as journal:
        assert journal.left_open() == []
        assert journal.depth(Sink.TRACES) == 1


async def test_what_was_lost_leaves_no_note(tmp_path: Path) -> None:
    """It is counted as lost; its note would take a place for ever, and tell the next process that it did not end."""
    lost = new_exchange()
    async with opened(tmp_path, max_bytes=100) as journal:
        journal.begin(lost)
        with pytest.raises(JournalUnavailableError):
            await journal.append(lost)
    async with opened(tmp_path) as journal:
        assert journal.left_open() == []


async def test_what_was_left_open_and_cannot_be_settled_is_found_again(tmp_path: Path) -> None:
    """A journal that is full at the start does not make it lost."""
    left = new_exchange()
    async with opened(tmp_path) as journal:
        journal.begin(left)
    async with opened(tmp_path, max_bytes=100) as journal:
        with pytest.raises(JournalUnavailableError):
            await journal.append(journal.left_open()[0])
    async with opened(tmp_path) as journal:
        assert [exchange.id for exchange in journal.left_open()] == [left.id]


async def test_a_full_disk_keeps_no_note_and_disturbs_nothing(tmp_path: Path) -> None:
    """A note is only for the case that the process dies."""
    async with opened(tmp_path) as journal:
        journal.begin(new_exchange(model="m" * 3_000))
        await journal.append(new_exchange())
    async with opened(tmp_path) as journal:
        assert journal.left_open() == []


async def test_a_journal_that_can_be_written_says_so(tmp_path: Path) -> None:
    """And one that is almost full says that."""
    async with opened(tmp_path, max_bytes=100_000) as journal:
        await journal.ping()
        with suppress(JournalUnavailableError):
            while True:
                await journal.append(new_exchange())
        with pytest.raises(JournalUnavailableError, match="almost full"):
            await journal.ping()
    with pytest.raises(JournalUnavailableError):
        await journal.ping()


async def test_a_batch_that_is_being_delivered_is_dropped_as_a_whole(tmp_path: Path) -> None:
    """Part of it under another token could be stored twice."""
    async with opened(tmp_path, max_bytes=200_000) as journal:
        for _ in range(50):
            await journal.append(new_exchange())
        first = await journal.next_batch(Sink.TRACES, 40)
        checkpoints = await journal.next_batch(Sink.CHECKPOINTS, 1_000)
        assert first is not None
        assert checkpoints is not None
        await journal.acknowledge(Sink.CHECKPOINTS, checkpoints)
        while not journal.traces_dropped:
            await journal.append(new_exchange())
        assert journal.traces_dropped >= 40
        await journal.acknowledge(Sink.TRACES, first)
        second = await journal.next_batch(Sink.TRACES, 1_000)
        assert second is not None
        assert not {e.id for e in first.exchanges} & {e.id for e in second.exchanges}


async def test_an_exchange_that_cannot_be_encoded_is_refused(tmp_path: Path) -> None:
    """Text without UTF-8 is told as a loss, without quoting it, and the journal goes on."""
    async with opened(tmp_path) as journal:
        with pytest.raises(JournalUnavailableError) as caught:
            await journal.append(new_exchange(model="canary\ud800"))
        assert "canary" not in str(caught.value)
        await journal.append(new_exchange())
        assert journal.depth(Sink.TRACES) == 1


async def test_errors_hold_nothing_of_an_exchange(tmp_path: Path) -> None:
    """A refusal for want of room names the bound only."""
    async with opened(tmp_path, max_bytes=100) as journal:
        with pytest.raises(JournalUnavailableError) as caught:
            await journal.append(new_exchange(model="canary"))
    assert "canary" not in str(caught.value)


def test_an_unknown_sync_is_refused(tmp_path: Path) -> None:
    """Only normal and full mean something."""
    with pytest.raises(ValueError, match="normal or full"):
        SqliteJournal(tmp_path, SystemIds(), sync="off")
