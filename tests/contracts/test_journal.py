"""What every journal keeps: ``domain.journal.Journal``, its in-memory twin and SQLite alike."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import pytest

from harness.journal_entries import new_exchange
from harness.memory.journal import InMemoryJournal
from ibex.adapters.journal.sqlite import MAX_BYTES, SqliteJournal
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import Batch, Journal, JournalUnavailableError, Sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ibex.domain.record.exchange import Exchange

NEVER_S = 30.0


class BoundedJournal(Journal, Protocol):
    """A journal that counts what it had to drop."""

    traces_dropped: int


class Journals(Protocol):
    """Makes journals that are open, and closes them after the test."""

    async def __call__(self, *, room_for: int | None = None) -> BoundedJournal:
        """Return an empty journal; ``room_for`` so many exchanges, and hardly one more."""


@pytest.fixture(params=["memory", "sqlite"])
async def new_journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journals]:
    """Each kind of journal in turn."""
    opened: list[SqliteJournal] = []

    async def in_memory(*, room_for: int | None = None) -> BoundedJournal:
        return InMemoryJournal() if room_for is None else InMemoryJournal(room_for)

    async def in_sqlite(*, room_for: int | None = None) -> BoundedJournal:
        max_bytes = MAX_BYTES if room_for is None else room_for * 1_130
        journal = SqliteJournal(tmp_path / f"journal-{len(opened)}", SystemIds(), max_bytes=max_bytes)
        await journal.open()
        opened.append(journal)
        return journal

    yield in_memory if request.param == "memory" else in_sqlite
    for journal in opened:
        await journal.close()


@pytest.fixture
async def journal(new_journal: Journals) -> Journal:
    """An empty journal."""
    return await new_journal()


async def _filled(journal: Journal, number: int) -> list[Exchange]:
    exchanges = [new_exchange() for _ in range(number)]
    for exchange in exchanges:
        await journal.append(exchange)
    return exchanges


async def _fill_up(journal: Journal) -> None:
    with suppress(JournalUnavailableError):
        while True:
            await journal.append(new_exchange())


async def _next(journal: Journal, sink: Sink, limit: int = 1_000) -> Batch:
    batch = await journal.next_batch(sink, limit)
    assert batch is not None
    return batch


async def test_an_empty_journal_has_no_batch(journal: Journal) -> None:
    """Nothing to take is None, not an empty batch."""
    assert [await journal.next_batch(sink, 10) for sink in Sink] == [None, None]
    assert [journal.depth(sink) for sink in Sink] == [0, 0]


async def test_what_is_appended_comes_back_in_order(journal: Journal) -> None:
    """Exchanges come as they went in, equal in every field."""
    exchanges = await _filled(journal, 5)
    assert list((await _next(journal, Sink.TRACES)).exchanges) == exchanges


async def test_a_batch_has_at_most_its_limit(journal: Journal) -> None:
    """The oldest come first, the rest in the next batch."""
    exchanges = await _filled(journal, 5)
    first = await _next(journal, Sink.TRACES, 3)
    await journal.acknowledge(Sink.TRACES, first)
    second = await _next(journal, Sink.TRACES, 3)
    assert list(first.exchanges) == exchanges[:3]
    assert list(second.exchanges) == exchanges[3:]


async def test_a_batch_keeps_its_members_until_it_is_acknowledged(journal: Journal) -> None:
    """What is appended meanwhile, or another limit, changes neither members nor token."""
    await _filled(journal, 3)
    first = await _next(journal, Sink.TRACES)
    await _filled(journal, 3)
    again = await _next(journal, Sink.TRACES, 1)
    assert again == first
    await journal.acknowledge(Sink.TRACES, first)
    assert (await _next(journal, Sink.TRACES)).token != first.token


async def test_sinks_go_at_their_own_pace(journal: Journal) -> None:
    """What one sink has acknowledged the other is still given."""
    exchanges = await _filled(journal, 4)
    await journal.acknowledge(Sink.TRACES, await _next(journal, Sink.TRACES))
    assert await journal.next_batch(Sink.TRACES, 10) is None
    assert list((await _next(journal, Sink.CHECKPOINTS)).exchanges) == exchanges


async def test_depth_counts_what_is_not_acknowledged(journal: Journal) -> None:
    """A batch that is out counts until the sink has it."""
    await _filled(journal, 4)
    batch = await _next(journal, Sink.TRACES, 3)
    assert journal.depth(Sink.TRACES) == 4
    await journal.acknowledge(Sink.TRACES, batch)
    assert (journal.depth(Sink.TRACES), journal.depth(Sink.CHECKPOINTS)) == (1, 4)


async def test_acknowledging_twice_changes_nothing(journal: Journal) -> None:
    """Nor does acknowledging an older batch again."""
    await _filled(journal, 4)
    first = await _next(journal, Sink.TRACES, 2)
    await journal.acknowledge(Sink.TRACES, first)
    second = await _next(journal, Sink.TRACES, 1)
    await journal.acknowledge(Sink.TRACES, first)
    assert await _next(journal, Sink.TRACES) == second
    assert journal.depth(Sink.TRACES) == 2


async def test_tokens_are_never_used_twice(journal: Journal) -> None:
    """Also after everything was delivered and forgotten."""
    tokens = set()
    for _ in range(3):
        await _filled(journal, 2)
        for sink in Sink:
            batch = await _next(journal, sink)
            tokens.add(batch.token)
            await journal.acknowledge(sink, batch)
    assert len(tokens) == 3


async def test_a_full_journal_refuses_until_there_is_room(new_journal: Journals) -> None:
    """It refuses what it cannot keep, keeps what it has, and takes more once every sink has some of it."""
    journal = await new_journal(room_for=3)
    with pytest.raises(JournalUnavailableError):
        await _filled(journal, 10)
    kept = journal.depth(Sink.TRACES)
    assert kept >= 3
    await journal.acknowledge(Sink.TRACES, await _next(journal, Sink.TRACES))
    with pytest.raises(JournalUnavailableError):
        await journal.append(new_exchange())
    await journal.acknowledge(Sink.CHECKPOINTS, await _next(journal, Sink.CHECKPOINTS))
    await journal.append(new_exchange())
    assert journal.depth(Sink.TRACES) == 1


async def test_a_full_journal_drops_what_only_the_traces_wait_for(new_journal: Journals) -> None:
    """Oldest first, so that a checkpoint is never refused for the sake of a trace."""
    journal = await new_journal(room_for=20)
    exchanges = await _filled(journal, 20)
    checkpoints = await _next(journal, Sink.CHECKPOINTS)
    await journal.acknowledge(Sink.CHECKPOINTS, checkpoints)

    while journal.depth(Sink.TRACES) >= len(exchanges):
        exchanges.append(new_exchange())
        await journal.append(exchanges[-1])

    kept = list((await _next(journal, Sink.TRACES)).exchanges)
    assert kept == exchanges[-len(kept) :]
    assert list((await _next(journal, Sink.CHECKPOINTS)).exchanges) == exchanges[20:]


async def test_every_trace_that_is_dropped_is_counted(new_journal: Journals) -> None:
    """Also where several who append make room at the same time."""
    journal = await new_journal(room_for=20)
    await _filled(journal, 20)
    await journal.acknowledge(Sink.CHECKPOINTS, await _next(journal, Sink.CHECKPOINTS))
    await asyncio.gather(*(journal.append(new_exchange()) for _ in range(15)))
    assert journal.depth(Sink.TRACES) == 35 - journal.traces_dropped
    assert journal.traces_dropped > 0


async def test_a_batch_of_traces_that_checkpoints_have_in_part_is_dropped_whole(new_journal: Journals) -> None:
    """It makes room as far as PostgreSQL has it, for no checkpoint is refused for the sake of a trace.

    What PostgreSQL still waits for stays for that.
    """
    journal = await new_journal(room_for=20)
    exchanges = await _filled(journal, 20)
    assert len((await _next(journal, Sink.TRACES)).exchanges) == 20
    await journal.acknowledge(Sink.CHECKPOINTS, await _next(journal, Sink.CHECKPOINTS, 10))

    for _ in range(8):
        exchanges.append(new_exchange())
        await journal.append(exchanges[-1])

    assert list((await _next(journal, Sink.CHECKPOINTS)).exchanges) == exchanges[10:]
    kept = list((await _next(journal, Sink.TRACES)).exchanges)
    assert kept == exchanges[-len(kept) :]
    assert exchanges[19] not in kept


async def test_what_both_sinks_wait_for_is_never_dropped(new_journal: Journals) -> None:
    """The journal refuses instead."""
    journal = await new_journal(room_for=20)
    exchanges = await _filled(journal, 20)
    traces = await _next(journal, Sink.TRACES, 5)
    await journal.acknowledge(Sink.TRACES, traces)
    await _fill_up(journal)
    assert list((await _next(journal, Sink.CHECKPOINTS)).exchanges)[:20] == exchanges


async def test_nothing_is_left_open_by_nobody(journal: Journal) -> None:
    """What is begun in this process is this process's to end."""
    journal.begin(new_exchange())
    assert list(journal.unfinished()) == []


async def test_ending_what_was_begun_keeps_one_exchange(journal: Journal) -> None:
    """The note is no exchange."""
    exchange = new_exchange()
    journal.begin(exchange)
    assert journal.depth(Sink.TRACES) == 0
    await journal.append(exchange)
    assert (await _next(journal, Sink.TRACES)).exchanges == [exchange]


async def test_burying_leaves_the_batch_to_be_acknowledged(journal: Journal) -> None:
    """It is laid aside, not taken out."""
    (exchange,) = await _filled(journal, 1)
    await journal.dead_letter(Sink.TRACES, exchange, "a type that it has not")
    batch = await _next(journal, Sink.TRACES)
    await journal.acknowledge(Sink.TRACES, batch)
    assert journal.depth(Sink.TRACES) == 0


async def test_waiting_ends_with_the_next_append(journal: Journal) -> None:
    """Whoever waits for more hears of it, each sink."""
    waiting = [asyncio.create_task(journal.wait_for_more(sink, NEVER_S)) for sink in Sink]
    await asyncio.sleep(0)
    await journal.append(new_exchange())
    async with asyncio.timeout(NEVER_S / 2):
        await asyncio.gather(*waiting)


async def test_there_is_no_waiting_while_there_is_something(journal: Journal) -> None:
    """What was appended before the wait began is not slept through."""
    await journal.append(new_exchange())
    async with asyncio.timeout(NEVER_S / 2):
        await journal.wait_for_more(Sink.TRACES, NEVER_S)


async def test_waiting_ends_after_its_timeout(journal: Journal) -> None:
    """A wait for nothing is not forever."""
    async with asyncio.timeout(NEVER_S):
        await journal.wait_for_more(Sink.TRACES, 0.001)
    assert journal.depth(Sink.TRACES) == 0


async def test_concurrent_appends_are_all_kept_once(journal: Journal) -> None:
    """A thousand at once arrive, each once."""
    exchanges = [new_exchange() for _ in range(1_000)]
    await asyncio.gather(*(journal.append(exchange) for exchange in exchanges))
    kept = (await _next(journal, Sink.TRACES)).exchanges
    assert sorted(e.emitter_seq for e in kept) == [e.emitter_seq for e in exchanges]


async def test_an_append_whose_future_was_cancelled_is_kept_or_not_but_never_blocks(journal: Journal) -> None:
    """A cancelled append leaves the journal in order for the next one."""
    left = journal.append(new_exchange())
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    last = new_exchange()
    await journal.append(last)
    assert (await _next(journal, Sink.TRACES)).exchanges[-1] == last
