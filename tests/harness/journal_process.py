"""A process that appends to a journal until it is killed or the disk is full: ``python -m harness.journal_process``."""

from __future__ import annotations

import asyncio
import resource
import sys

from harness.journal_entries import new_exchange
from ibex.adapters.journal.sqlite import SqliteJournal
from ibex.adapters.system.ids import SystemIds
from ibex.domain.record.journal import JournalUnavailableError, Sink, append_and_wait

DISK_BYTES = 300_000
CONCURRENCY = 20


async def append_until_killed(directory: str) -> None:
    """Append from many tasks concurrently; print the id of each exchange once its append has returned."""
    journal = SqliteJournal(directory, SystemIds())
    await journal.open()

    async def append() -> None:
        while True:
            exchange = new_exchange()
            await append_and_wait(journal, exchange)
            print(exchange.id, flush=True)  # noqa: T201 - it reports on a pipe

    await asyncio.gather(*(append() for _ in range(CONCURRENCY)))


async def fill_the_disk(directory: str) -> None:
    """Append until the disk is full, free some space and append again. Print the results."""
    journal = SqliteJournal(directory, SystemIds())
    await journal.open()
    kept = await _append_until_refused(journal)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await append_and_wait(journal, new_exchange())
    batch = await journal.next_batch(Sink.TRACES, 10_000)
    delivered = len(batch.exchanges) if batch else 0
    await journal.close()
    print(kept, delivered)  # noqa: T201 - it reports on a pipe


async def begin_and_wait(directory: str) -> None:
    """Begin four exchanges, end the first, print the ids and wait for the kill."""
    journal = SqliteJournal(directory, SystemIds())
    await journal.open()
    exchanges = [new_exchange() for _ in range(4)]
    for exchange in exchanges:
        journal.begin(exchange)
    await append_and_wait(journal, exchanges[0])
    print(*(exchange.id for exchange in exchanges), flush=True)  # noqa: T201 - it reports on a pipe
    await asyncio.Event().wait()


async def _append_until_refused(journal: SqliteJournal) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, resource.RLIM_INFINITY))
    for kept in range(10_000):
        try:
            await append_and_wait(journal, new_exchange())
        except JournalUnavailableError:
            return kept
    raise AssertionError("the disk never filled")


if __name__ == "__main__":
    do = {"append": append_until_killed, "begin": begin_and_wait, "fill": fill_the_disk}[sys.argv[1]]
    asyncio.run(do(sys.argv[2]))
