"""The filter of live tokens: never wrong about a live one, seldom about another."""

from __future__ import annotations

import hashlib
import math
from uuid import UUID

import pytest

from ibex.domain.ids import uuid7
from ibex.domain.known_tokens import FILTER_BITS, HASHES, filter_of, positions

TRIED = 100_000
EVERY = 40


def _ids(first: int, count: int) -> list[UUID]:
    return [uuid7(1_700_000_000_000 + n, hashlib.sha256(n.to_bytes(8)).digest()[:10]) for n in range(first, count)]


def _holds(content: bytes, token_id: UUID) -> bool:
    return all(content[bit // 8] >> (7 - bit % 8) & 1 for bit in positions(token_id))


def test_a_tokens_bits_are_slices_of_its_digest() -> None:
    """The same everywhere and for ever: what one release puts in, another must find."""
    digest = hashlib.sha256(UUID(int=7).bytes).hexdigest()

    assert [f"{bit:06x}" for bit in positions(UUID(int=7))] == [digest[n : n + 6] for n in range(0, 60, 6)]


def test_positions_are_bits_of_the_filter() -> None:
    """Ten of them, none beyond its end."""
    for token_id in _ids(0, 1_000):
        bits = positions(token_id)
        assert len(bits) == HASHES
        assert max(bits) < FILTER_BITS


def test_the_filter_is_written_as_redis_counts_bits() -> None:
    """Bit 0 is the highest of the first byte: SETBIT and GETBIT find what a whole filter holds."""
    bits = set(positions(UUID(int=7)))
    content = filter_of([UUID(int=7)])

    assert len(content) == FILTER_BITS // 8
    assert {byte * 8 + n for byte, value in enumerate(content) if value for n in range(8) if value & 0x80 >> n} == bits


def test_no_token_is_no_bit() -> None:
    """An empty filter excludes everything."""
    assert not any(filter_of([]))


def test_no_live_token_is_ever_missed() -> None:
    """Whatever else is in the filter."""
    live = _ids(0, 20_000)
    content = filter_of(live)

    assert [token_id for token_id in live if not _holds(content, token_id)] == []


@pytest.mark.parametrize("tokens", [1_000_000, 2_000_000])
def test_few_others_pass_at_a_million_tokens(tokens: int) -> None:
    """Of unknown tokens 0.1 % at most pass at a million; measured where that many bits are set as a million sets.

    A filter of as many tokens takes seconds to make, so only a slice of it is: the positions' lowest bits, which are
    as even as all of them, put a fortieth of the tokens into a fortieth of the bits.
    """
    slots = FILTER_BITS // EVERY
    taken = bytearray(slots)
    for token_id in _ids(0, tokens // EVERY):
        for bit in positions(token_id):
            taken[bit % slots] = 1
    tried = [[bit % slots for bit in positions(token_id)] for token_id in _ids(10_000_000, 10_000_000 + TRIED)]

    passed = sum(all(taken[bit] for bit in bits) for bits in tried) / TRIED

    expected = (1 - math.exp(-HASHES * tokens / FILTER_BITS)) ** HASHES
    assert passed == pytest.approx(expected, rel=0.5)
    assert passed < (0.001 if tokens == 1_000_000 else 0.04)
