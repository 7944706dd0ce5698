"""The changes that readings of an epoch prove, and the entries that the watch allows."""

from __future__ import annotations

from uuid import UUID

import pytest

from ibex.domain.freshness.kinds import NS, Epoch, Kind, unknown_epoch
from ibex.domain.freshness.validity import MAX_INVALIDATIONS, Validity

ORG, OTHER = UUID(int=1), UUID(int=2)


def reading(value: str | None, asked_ns: int = 10) -> Epoch:
    """Return a reading that was made at a time."""
    return Epoch(value, was_read=True, asked_ns=asked_ns)


@pytest.mark.parametrize(
    ("fetched", "now", "proves"),
    [
        (reading("a"), reading("a"), False),
        (reading("a"), reading("b"), True),
        (reading(None), reading("b"), True),
        (reading("a"), reading(None), False),
        (reading(None), reading(None), False),
        (unknown_epoch(1), reading("b"), False),
        (reading("a"), unknown_epoch(1), False),
        (reading("a"), reading("b", asked_ns=4), False),
    ],
)
def test_a_later_reading_of_a_different_epoch_proves_a_change(fetched: Epoch, now: Epoch, proves: bool) -> None:  # noqa: FBT001 - a parameter
    """A first epoch does too. An absent, an unknown and an older reading do not."""
    assert now.proves_change_since(fetched, 5) is proves


def test_an_entry_is_served_for_three_seconds_after_its_fetch_or_the_last_pong() -> None:
    """The later of the two counts."""
    validity = Validity()
    assert validity.may_serve(Kind.TOKENS, ORG, 0, 3 * NS)
    assert not validity.may_serve(Kind.TOKENS, ORG, 0, 3 * NS + 1)
    validity.confirm(2 * NS)
    assert validity.may_serve(Kind.TOKENS, ORG, 0, 5 * NS)
    assert not validity.may_serve(Kind.TOKENS, ORG, 0, 5 * NS + 1)
    assert validity.may_serve(Kind.TOKENS, ORG, 4 * NS, 7 * NS)


def test_a_late_pong_does_not_reset_a_newer_confirmation() -> None:
    """Pings of two streams can be answered in any order."""
    validity = Validity()
    validity.confirm(5)
    validity.confirm(3)
    assert validity.confirmed_ns == 5


def test_an_event_invalidates_one_kind_of_one_organization() -> None:
    """It invalidates only entries that were fetched before it."""
    validity = Validity()
    validity.invalidate(Kind.TOKENS, ORG, 10)
    assert not validity.may_serve(Kind.TOKENS, ORG, 10, 20)
    assert validity.may_serve(Kind.TOKENS, ORG, 11, 20)
    assert validity.may_serve(Kind.AGENTS, ORG, 10, 20)
    assert validity.may_serve(Kind.TOKENS, OTHER, 10, 20)


def test_a_reset_invalidates_everything() -> None:
    """It invalidates every entry that was fetched before it."""
    validity = Validity()
    validity.invalidate_all(10)
    assert not validity.may_serve(Kind.AGENTS, OTHER, 10, 20)
    assert validity.may_serve(Kind.AGENTS, OTHER, 11, 20)


def test_dropped_changes_invalidate_other_entries_too() -> None:
    """Dropping a change for lack of memory can only cost a fetch."""
    validity = Validity()
    for number in range(MAX_INVALIDATIONS + 1):
        validity.invalidate(Kind.TOKENS, UUID(int=number + 10), number + 10)
    assert not validity.may_serve(Kind.TOKENS, UUID(int=10), 10, 20)
    assert not validity.may_serve(Kind.AGENTS, OTHER, 10, 20)
    assert validity.may_serve(Kind.AGENTS, OTHER, 11, 20)


def test_directives_are_read_from_the_shared_cache_only_after_its_entries_have_expired() -> None:
    """An event can mean that the epoch, the key of the shared entries, was not replaced."""
    validity, ttl_ns = Validity(), 60 * NS
    assert not validity.may_read_shared(ORG, 100 * NS, ttl_ns)
    validity.confirm(100 * NS)
    assert validity.may_read_shared(ORG, 100 * NS, ttl_ns)
    validity.invalidate(Kind.DIRECTIVES, ORG, 100 * NS)
    validity.confirm(200 * NS)
    assert not validity.may_read_shared(ORG, 160 * NS, ttl_ns)
    assert validity.may_read_shared(ORG, 160 * NS + 1, ttl_ns)
    assert validity.may_read_shared(OTHER, 100 * NS, ttl_ns)
