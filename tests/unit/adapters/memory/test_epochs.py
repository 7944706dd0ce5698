"""Epochs in a dictionary, and the epochs of a process that has no store for them."""

from __future__ import annotations

from uuid import UUID

from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from ibex.adapters.memory.epochs import InMemoryEpochs, NoEpochs

ORG, OTHER = UUID(int=1), UUID(int=2)


async def test_an_epoch_is_created_once_and_replaced_by_one_that_it_never_was() -> None:
    """Of one organization alone."""
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


async def test_epochs_can_be_lost_and_come_back() -> None:
    """As in a flush, or in a fail-over to a replica that lacks what was written last."""
    epochs = InMemoryEpochs(ManualClock(), SequentialIds())
    await epochs.replace(ORG)
    kept = epochs.content()
    await epochs.replace(ORG)
    epochs.become(kept)
    assert epochs.read(ORG).value == kept[ORG]
    epochs.become({})
    assert epochs.read(ORG).value is None


async def test_without_a_store_every_epoch_is_unknown() -> None:
    """And no replacement succeeds: the watch alone makes changes known."""
    epochs = NoEpochs(ManualClock())
    read = await epochs.read_or_create(ORG)
    assert (read.value, read.was_read) == (None, False)
    assert not await epochs.replace(ORG)
