"""What the outbox in a list does when it is out of reach; the rest is in the contract."""

from __future__ import annotations

from uuid import UUID

import pytest

from ibex.adapters.memory.outbox import InMemoryOutbox
from ibex.domain.announce import OutboxUnavailableError
from ibex.domain.freshness import Kind

ORG = UUID(int=1)


async def test_an_outbox_out_of_reach_says_so_and_keeps_what_it_has() -> None:
    """For each method; what is committed meanwhile is there afterwards."""
    outbox = InMemoryOutbox(list)
    outbox.note(ORG, Kind.TOKENS)
    outbox.reachable = False

    for asked in (outbox.pending(1), outbox.forget([1]), outbox.live_tokens()):
        with pytest.raises(OutboxUnavailableError):
            await asked
    outbox.note(ORG, Kind.AGENTS)
    outbox.reachable = True

    assert [change.kind for change in await outbox.pending(10)] == [Kind.TOKENS, Kind.AGENTS]


async def test_ids_are_never_used_again() -> None:
    """Forgetting late does not take away what came since."""
    outbox = InMemoryOutbox(list)
    outbox.note(ORG, Kind.TOKENS)
    (first,) = await outbox.pending(1)
    await outbox.forget([first.id])
    outbox.note(ORG, Kind.TOKENS)
    await outbox.forget([first.id])

    assert len(await outbox.pending(10)) == 1
