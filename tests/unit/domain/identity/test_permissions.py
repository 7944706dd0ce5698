"""The permission bitmap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.domain.identity.permissions import (
    ADMIN,
    AGENT_DEFAULT,
    CHAT,
    NAMED_SETS,
    READ_ONLY,
    Permission,
    allows,
    permissions_of,
)

BITMAPS = st.integers(0, (1 << 56) - 1)


def _bits(*bits: int) -> int:
    return sum(1 << bit for bit in bits)


@pytest.mark.parametrize(
    ("named", "bits"),
    [
        (AGENT_DEFAULT, (0, 1, 16, 17, 24)),
        (CHAT, (0, 16, 17)),
        (READ_ONLY, (0, 8, 17, 24)),
        (ADMIN, (0, 1, 16, 17, 24, 8, 9, 10, 11, 18, 25, 32, 33, 34, 35, 36, 37)),
    ],
)
def test_the_named_sets_have_the_bits_of_the_specification(named: Permission, bits: tuple[int, ...]) -> None:
    """The sets are numbers in the store, so they must never change by accident."""
    assert int(named) == _bits(*bits)


def test_every_permission_has_the_specified_bit() -> None:
    """The test lists all assigned bits."""
    assert {p.value.bit_length() - 1 for p in Permission} == {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 24, 25} | {
        *range(32, 38),
        40,
        41,
        48,
    }


def test_each_named_set_is_found_by_its_name() -> None:
    """The command line offers these names."""
    assert NAMED_SETS == {"agent": AGENT_DEFAULT, "chat": CHAT, "read-only": READ_ONLY, "admin": ADMIN}


@pytest.mark.parametrize(
    ("granted", "may_chat"), [(AGENT_DEFAULT, True), (CHAT, True), (ADMIN, True), (READ_ONLY, False), (0, False)]
)
def test_chat_requires_its_permissions(granted: int, *, may_chat: bool) -> None:
    """Agents and administrators have them. A read-only token and one without permissions do not."""
    assert allows(granted, CHAT) is may_chat


@given(BITMAPS, BITMAPS)
def test_every_needed_bit_must_be_granted(granted: int, needed: int) -> None:
    """A single missing bit is enough to refuse."""
    assert allows(granted, needed) is all(granted >> bit & 1 for bit in range(56) if needed >> bit & 1)


@given(BITMAPS)
def test_unassigned_bits_below_56_are_preserved(bitmap: int) -> None:
    """An older version does not remove the bits that a newer one granted."""
    assert int(permissions_of(bitmap)) == bitmap


@pytest.mark.parametrize("bit", range(56, 66))
def test_reserved_bits_are_refused(bit: int) -> None:
    """Bits 56 to 63 are reserved, and there are no more than 64."""
    with pytest.raises(ValueError, match="reserved"):
        permissions_of(1 << bit | 1)


def test_a_negative_bitmap_is_refused() -> None:
    """In two's complement it would grant every permission."""
    with pytest.raises(ValueError, match="reserved"):
        permissions_of(-1)
