"""The in-memory journal beyond the contract."""

from __future__ import annotations

from harness.journal_entries import new_exchange
from ibex.adapters.memory.journal import InMemoryJournal
from ibex.domain.record.journal import Sink


async def test_what_every_sink_has_is_forgotten() -> None:
    """Memory is given back, so that a bound of two serves any number in turn."""
    journal = InMemoryJournal(most=2)
    for _ in range(5):
        await journal.append(new_exchange())
        await journal.append(new_exchange())
        for sink in Sink:
            batch = await journal.next_batch(sink, 10)
            assert batch is not None
            await journal.acknowledge(sink, batch)
    assert [journal.depth(sink) for sink in Sink] == [0, 0]
