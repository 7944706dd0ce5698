"""Batches of the journal."""

from __future__ import annotations

import pytest

from harness.exchanges import an_exchange
from ibex.domain.record.journal import Batch


@pytest.mark.parametrize("count", [2, 3, 7, 1_000])
def test_the_halves_of_a_batch_contain_all_of_its_exchanges(count: int) -> None:
    """They keep the order, neither is empty, and their tokens are always the same."""
    batch = Batch("t", 9, [an_exchange(emitter_seq=n) for n in range(count)])
    first, second = batch.halves()
    assert [*first.exchanges, *second.exchanges] == batch.exchanges
    assert first.exchanges
    assert second.exchanges
    assert (first.token, second.token, first.last_position) == ("t.0", "t.1", 9)
    assert batch.halves() == (first, second)
