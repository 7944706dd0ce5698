"""The contract of ``Journal``, in memory and in SQLite."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import pytest

from harness.journal_entries import new_exchange
from harness.memory.journal import InMemoryJournal
from ibex.adapters.journal.sqlite import MAX_BYTES, SqliteJournal
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import Batch, Journal, JournalUnavailableError, Sink, append_and_wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ibex.domain.record.exchange import Exchange

NEVER_S = 30.0


class BoundedJournal(Journal, Protocol):
    """A journal that counts the traces it dropped."""

    traces_dropped: int


class Journals(Protocol):
    """A factory of open journals, which are closed after the test."""

    async def __call__(self, *, room_for: int | None = None) -> BoundedJournal:
        """Return an empty journal. With ``room_for``, it holds hardly more exchanges than that number."""


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
        await append_and_wait(journal, exchange)
    return exchanges


async def _fill_up(journal: Journal) -> None:
    with suppress(JournalUnavailableError):
        while True:
            await append_and_wait(journal, new_exchange())


async def _next(journal: Journal, sink: Sink, limit: int = 1_000) -> Batch:
    batch = await journal.next_batch(sink, limit)
    assert batch is not None
    return batch


async def test_an_empty_journal_has_no_batch(journal: Journal) -> None:
    """``next_batch`` returns None and not an empty batch."""
    assert [await journal.next_batch(sink, 10) for sink in Sink] == [None, None]
    assert [journal.depth(sink) for sink in Sink] == [0, 0]


async def test_a_batch_returns_exchanges_in_the_order_of_their_append(journal: Journal) -> None:
    """Every field of an exchange is equal."""
    exchanges = await _filled(journal, 5)
    assert list((await _next(journal, Sink.TRACES)).exchanges) == exchanges


async def test_a_batch_has_at_most_its_limit(journal: Journal) -> None:
    """The batch has the oldest exchanges, and the next batch has the rest."""
    exchanges = await _filled(journal, 5)
    first = await _next(journal, Sink.TRACES, 3)
    await journal.acknowledge(Sink.TRACES, first)
    second = await _next(journal, Sink.TRACES, 3)
    assert list(first.exchanges) == exchanges[:3]
    assert list(second.exchanges) == exchanges[3:]


async def test_a_batch_keeps_its_members_until_it_is_acknowledged(journal: Journal) -> None:
    """Neither later appends nor another limit change its members or token."""
    await _filled(journal, 3)
    first = await _next(journal, Sink.TRACES)
    await _filled(journal, 3)
    again = await _next(journal, Sink.TRACES, 1)
    assert again == first
    await journal.acknowledge(Sink.TRACES, first)
    assert (await _next(journal, Sink.TRACES)).token != first.token


async def test_each_sink_has_its_own_batches(journal: Journal) -> None:
    """An acknowledgement of one sink does not affect the other."""
    exchanges = await _filled(journal, 4)
    await journal.acknowledge(Sink.TRACES, await _next(journal, Sink.TRACES))
    assert await journal.next_batch(Sink.TRACES, 10) is None
    assert list((await _next(journal, Sink.CHECKPOINTS)).exchanges) == exchanges


async def test_depth_counts_exchanges_until_they_are_acknowledged(journal: Journal) -> None:
    """A batch in delivery counts until its sink acknowledges it."""
    await _filled(journal, 4)
    batch = await _next(journal, Sink.TRACES, 3)
    assert journal.depth(Sink.TRACES) == 4
    await journal.acknowledge(Sink.TRACES, batch)
    assert (journal.depth(Sink.TRACES), journal.depth(Sink.CHECKPOINTS)) == (1, 4)


async def test_a_repeated_acknowledgement_has_no_effect(journal: Journal) -> None:
    """The acknowledgement of an older batch has no effect either."""
    await _filled(journal, 4)
    first = await _next(journal, Sink.TRACES, 2)
    await journal.acknowledge(Sink.TRACES, first)
    second = await _next(journal, Sink.TRACES, 1)
    await journal.acknowledge(Sink.TRACES, first)
    assert await _next(journal, Sink.TRACES) == second
    assert journal.depth(Sink.TRACES) == 2


async def test_batch_tokens_are_unique(journal: Journal) -> None:
    """They stay unique after all exchanges were delivered and deleted."""
    tokens = set()
    for _ in range(3):
        await _filled(journal, 2)
        for sink in Sink:
            batch = await _next(journal, sink)
            tokens.add(batch.token)
            await journal.acknowledge(sink, batch)
    assert len(tokens) == 3


async def test_a_full_journal_refuses_appends_until_it_has_space(new_journal: Journals) -> None:
    """It keeps its exchanges. It accepts new ones once both sinks have acknowledged a batch."""
    journal = await new_journal(room_for=3)
    with pytest.raises(JournalUnavailableError):
        await _filled(journal, 10)
    kept = journal.depth(Sink.TRACES)
    assert kept >= 3
    await journal.acknowledge(Sink.TRACES, await _next(journal, Sink.TRACES))
    with pytest.raises(JournalUnavailableError):
        await append_and_wait(journal, new_exchange())
    await journal.acknowledge(Sink.CHECKPOINTS, await _next(journal, Sink.CHECKPOINTS))
    await append_and_wait(journal, new_exchange())
    assert journal.depth(Sink.TRACES) == 1


async def test_a_full_journal_drops_exchanges_that_only_traces_need(new_journal: Journals) -> None:
    """It drops the oldest first, so that no checkpoint is refused because of a trace."""
    journal = await new_journal(room_for=20)
    exchanges = await _filled(journal, 20)
    checkpoints = await _next(journal, Sink.CHECKPOINTS)
    await journal.acknowledge(Sink.CHECKPOINTS, checkpoints)

    while journal.depth(Sink.TRACES) >= len(exchanges):
        exchanges.append(new_exchange())
        await append_and_wait(journal, exchanges[-1])

    kept = list((await _next(journal, Sink.TRACES)).exchanges)
    assert kept == exchanges[-len(kept) :]
    assert list((await _next(journal, Sink.CHECKPOINTS)).exchanges) == exchanges[20:]


async def test_every_dropped_trace_is_counted(new_journal: Journals) -> None:
    """Concurrent appends may drop traces at the same time."""
    journal = await new_journal(room_for=20)
    await _filled(journal, 20)
    await journal.acknowledge(Sink.CHECKPOINTS, await _next(journal, Sink.CHECKPOINTS))
    await asyncio.gather(*(append_and_wait(journal, new_exchange()) for _ in range(15)))
    assert journal.depth(Sink.TRACES) == 35 - journal.traces_dropped
    assert journal.traces_dropped > 0


async def test_a_batch_of_traces_is_dropped_as_a_whole(new_journal: Journals) -> None:
    """The journal drops the batch even if PostgreSQL has only a part of it.

    It keeps the exchanges that PostgreSQL still needs for the checkpoints.
    """
    journal = await new_journal(room_for=20)
    exchanges = await _filled(journal, 20)
    assert len((await _next(journal, Sink.TRACES)).exchanges) == 20
    await journal.acknowledge(Sink.CHECKPOINTS, await _next(journal, Sink.CHECKPOINTS, 10))

    for _ in range(8):
        exchanges.append(new_exchange())
        await append_and_wait(journal, exchanges[-1])

    assert list((await _next(journal, Sink.CHECKPOINTS)).exchanges) == exchanges[10:]
    kept = list((await _next(journal, Sink.TRACES)).exchanges)
    assert kept == exchanges[-len(kept) :]
    assert exchanges[19] not in kept


async def test_an_exchange_that_both_sinks_need_is_never_dropped(new_journal: Journals) -> None:
    """The journal refuses appends instead."""
    journal = await new_journal(room_for=20)
    exchanges = await _filled(journal, 20)
    traces = await _next(journal, Sink.TRACES, 5)
    await journal.acknowledge(Sink.TRACES, traces)
    await _fill_up(journal)
    assert list((await _next(journal, Sink.CHECKPOINTS)).exchanges)[:20] == exchanges


async def test_exchanges_in_flight_in_this_process_are_not_unfinished(journal: Journal) -> None:
    """This process finishes the exchanges that it has begun."""
    journal.begin(new_exchange())
    assert list(journal.unfinished()) == []


async def test_appending_a_begun_exchange_stores_it_once(journal: Journal) -> None:
    """The entry of an exchange in flight does not count as an exchange."""
    exchange = new_exchange()
    journal.begin(exchange)
    assert journal.depth(Sink.TRACES) == 0
    await append_and_wait(journal, exchange)
    assert (await _next(journal, Sink.TRACES)).exchanges == [exchange]


async def test_a_dead_letter_stays_in_its_batch(journal: Journal) -> None:
    """The batch must be acknowledged as usual."""
    (exchange,) = await _filled(journal, 1)
    await journal.dead_letter(Sink.TRACES, exchange, "a type that it has not")
    batch = await _next(journal, Sink.TRACES)
    await journal.acknowledge(Sink.TRACES, batch)
    assert journal.depth(Sink.TRACES) == 0


async def test_an_append_wakes_all_waiting_sinks(journal: Journal) -> None:
    """Each sink waits on its own."""
    waiting = [asyncio.create_task(journal.wait_for_more(sink, NEVER_S)) for sink in Sink]
    await asyncio.sleep(0)
    await append_and_wait(journal, new_exchange())
    async with asyncio.timeout(NEVER_S / 2):
        await asyncio.gather(*waiting)


async def test_a_wait_returns_immediately_if_exchanges_are_pending(journal: Journal) -> None:
    """The exchange was appended before the wait began."""
    await append_and_wait(journal, new_exchange())
    async with asyncio.timeout(NEVER_S / 2):
        await journal.wait_for_more(Sink.TRACES, NEVER_S)


async def test_a_wait_ends_after_its_timeout(journal: Journal) -> None:
    """The wait ends without an append."""
    async with asyncio.timeout(NEVER_S):
        await journal.wait_for_more(Sink.TRACES, 0.001)
    assert journal.depth(Sink.TRACES) == 0


async def test_concurrent_appends_are_each_stored_once(journal: Journal) -> None:
    """All of a thousand concurrent appends are stored."""
    exchanges = [new_exchange() for _ in range(1_000)]
    await asyncio.gather(*(append_and_wait(journal, exchange) for exchange in exchanges))
    kept = (await _next(journal, Sink.TRACES)).exchanges
    assert sorted(e.emitter_seq for e in kept) == [e.emitter_seq for e in exchanges]


async def test_the_outcome_of_each_append_is_reported_once(new_journal: Journals) -> None:
    """None for each exchange that is stored, and the error for each that a full journal refuses, in this thread."""
    journal = await new_journal(room_for=20)
    outcomes: list[JournalUnavailableError | None] = []
    threads: set[int] = set()
    all_reported = asyncio.Event()

    def done(error: JournalUnavailableError | None) -> None:
        outcomes.append(error)
        threads.add(threading.get_ident())
        if len(outcomes) == 50:
            all_reported.set()

    for _ in range(50):
        journal.append(new_exchange(), done)
    async with asyncio.timeout(NEVER_S):
        await all_reported.wait()
    await append_refused(journal)

    assert len(outcomes) == 50
    assert outcomes.count(None) == journal.depth(Sink.TRACES) >= 20
    assert {type(error) for error in outcomes} == {type(None), JournalUnavailableError}
    assert threads == {threading.get_ident()}


async def append_refused(journal: Journal) -> None:
    """Append to a full journal. Every report of an earlier append comes before this one."""
    with pytest.raises(JournalUnavailableError):
        await append_and_wait(journal, new_exchange())


async def test_a_cancelled_append_does_not_block_later_appends(journal: Journal) -> None:
    """The exchange of the cancelled append may be stored or not."""
    left = asyncio.create_task(append_and_wait(journal, new_exchange()))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    last = new_exchange()
    await append_and_wait(journal, last)
    assert (await _next(journal, Sink.TRACES)).exchanges[-1] == last
