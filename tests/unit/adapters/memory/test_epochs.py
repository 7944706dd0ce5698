"""Tests of the epochs of a process without a shared store."""

from __future__ import annotations

from uuid import UUID

from harness.memory.clock import ManualClock
from ibex.adapters.memory.epochs import NoEpochs

ORG = UUID(int=1)


async def test_without_a_store_every_epoch_is_unknown() -> None:
    """``replace`` returns False, so only the watch distributes changes."""
    epochs = NoEpochs(ManualClock())
    read = await epochs.read_or_create(ORG)
    assert (read.value, read.was_read) == (None, False)
    assert not epochs.read(ORG).was_read
    assert not await epochs.replace(ORG)
