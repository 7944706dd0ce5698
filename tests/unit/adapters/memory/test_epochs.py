"""Epochs in memory, and the adapter without a store."""

from __future__ import annotations

from uuid import UUID

from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from ibex.adapters.memory.epochs import InMemoryEpochs, NoEpochs

ORG, OTHER = UUID(int=1), UUID(int=2)


async def test_an_epoch_is_created_once_and_replaced_by_a_new_value() -> None:
    """Only that of one organization."""
    epochs = InMemoryEpochs(ManualClock(), SequentialIds())
    assert epochs.read(ORG).value is None
    assert epochs.read(ORG).was_read

    first = (await epochs.read_or_create(ORG)).value
    assert first is not None
    assert (await epochs.read_or_create(ORG)).value == first
    other = (await epochs.read_or_create(OTHER)).value

    values = [first]
    for _ in range(10):
        assert await epochs.replace(ORG)
        value = epochs.read(ORG).value
        assert value is not None
        values.append(value)
    assert len(set(values)) == 11
    assert epochs.read(OTHER).value == other


async def test_epochs_can_be_lost_and_restored() -> None:
    """As by a flush, or a failover to a replica that lacks the last writes."""
    epochs = InMemoryEpochs(ManualClock(), SequentialIds())
    await epochs.replace(ORG)
    kept = epochs.content()
    await epochs.replace(ORG)
    epochs.become(kept)
    assert epochs.read(ORG).value == kept[ORG]
    epochs.become({})
    assert epochs.read(ORG).value is None


async def test_without_a_store_every_epoch_is_unknown() -> None:
    """And ``replace`` returns False, so that only the watch distributes changes."""
    epochs = NoEpochs(ManualClock())
    read = await epochs.read_or_create(ORG)
    assert (read.value, read.was_read) == (None, False)
    assert not await epochs.replace(ORG)
