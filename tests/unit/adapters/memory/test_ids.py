"""Identifiers that can be foretold."""

from __future__ import annotations

import pytest

from ibex.adapters.memory.ids import SequentialIds


def test_the_same_calls_give_the_same_ids_and_secrets() -> None:
    """A test that fails fails again."""
    first, second = SequentialIds(), SequentialIds()

    assert [first.uuid7() for _ in range(5)] == [second.uuid7() for _ in range(5)]
    assert [first.secret() for _ in range(5)] == [second.secret() for _ in range(5)]


def test_secrets_do_not_depend_on_ids() -> None:
    """Drawing one more id leaves the secrets what they were."""
    first, second = SequentialIds(), SequentialIds()
    first.uuid7()

    assert first.secret() == second.secret()


def test_sources_with_different_seeds_share_nothing() -> None:
    """Two processes in one test are two sources."""
    first, second = SequentialIds(0), SequentialIds(1)

    assert not {first.uuid7() for _ in range(100)} & {second.uuid7() for _ in range(100)}
    assert not {first.secret() for _ in range(100)} & {second.secret() for _ in range(100)}


@pytest.mark.parametrize("seed", [-1, 1 << 16])
def test_a_seed_has_two_bytes(seed: int) -> None:
    """Any other number is refused."""
    with pytest.raises(OverflowError):
        SequentialIds(seed)
