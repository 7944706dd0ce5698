"""Capacity: its bound, the share of each organization, and its release."""

from __future__ import annotations

from itertools import count
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.domain.errors import OverloadedError
from ibex.domain.proxying.capacity import (
    RESERVED_DIVISOR,
    SMALL_DIVISOR,
    BodyRateLimit,
    Capacity,
    FairShare,
    Limit,
    Reservation,
)

A, B, C = (UUID(int=number) for number in (1, 2, 3))
STEPS = st.lists(
    st.tuples(st.sampled_from([A, B, C]), st.integers(1, 40), st.booleans()), max_size=200
)  # organization, amount, and whether it is released instead of taken


def open_part(capacity: int) -> int:
    """Return the part of a capacity that any organization can use."""
    return capacity - capacity // RESERVED_DIVISOR


def fill(share: FairShare, org_id: UUID, amount: int = 1) -> int:
    """Take until a request is refused, and return the amount."""
    return next(taken for taken in count(0, amount) if not share.take(org_id, amount))


@given(st.integers(1, 400), STEPS)
def test_every_sequence_of_takes_and_releases_follows_the_rules(
    capacity: int, steps: list[tuple[UUID, int, bool]]
) -> None:
    """Grants follow the rule, the sums are correct, and an organization without an amount uses no memory."""
    share = FairShare(capacity)
    held = {A: 0, B: 0, C: 0}
    for org_id, amount, gives_back in steps:
        if gives_back:
            back = min(amount, held[org_id])
            if back:
                share.release(org_id, back)
                held[org_id] -= back
        else:
            total = sum(held.values()) + amount
            fits = total <= open_part(capacity) or (total <= capacity and held[org_id] < capacity / SMALL_DIVISOR)
            assert share.take(org_id, amount) is fits
            held[org_id] += amount * fits
        assert {org_id: share.held_by(org_id) for org_id in held} == held
        assert share.in_use == sum(held.values()) <= capacity
        assert len(share) == sum(amount > 0 for amount in held.values())
    for org_id, amount in held.items():
        if amount:
            share.release(org_id, amount)
    assert (share.in_use, len(share)) == (0, 0)
    assert fill(share, A) >= open_part(capacity)


@pytest.mark.parametrize("capacity", [1, 2, 3, 4, 10, 100, 2_000, 2_001])
def test_one_organization_alone_gets_three_quarters(capacity: int) -> None:
    """It gets all of a capacity that is too small for quarters."""
    share = FairShare(capacity)
    assert fill(share, A) == open_part(capacity)


@given(st.integers(4, 2_000), st.integers(4, 2_000))
def test_a_second_organization_gets_a_tenth_of_the_capacity(capacity: int, first: int) -> None:
    """The amount that the first one takes does not matter."""
    share = FairShare(capacity)
    for _ in range(first):
        share.take(A)
    taken = fill(share, B)
    assert taken >= min(capacity / SMALL_DIVISOR, capacity // RESERVED_DIVISOR)
    assert share.held_by(A) <= open_part(capacity)


def test_the_largest_amount_fits_into_the_reserved_quarter() -> None:
    """The settings require that a body is a quarter of the capacity at most."""
    share = FairShare(400)
    assert fill(share, A) == 300
    assert share.take(B, 100)
    assert not share.take(C)


def of(capacity: Capacity, org_id: UUID) -> Reservation:
    """Return a reservation with a slot."""
    reservation = Reservation(capacity)
    reservation.take_slot(org_id)
    return reservation


def test_a_refusal_is_counted_and_has_a_retry_delay() -> None:
    """Refusals are counted by limit. A refused request takes nothing from others."""
    capacity = Capacity(slots=4, body_bytes=100, max_authenticating=1)
    held = [of(capacity, A) for _ in range(3)]
    held[0].reserve_body(75)
    with pytest.raises(OverloadedError, match="requests in flight") as slots:
        of(capacity, A)
    with pytest.raises(OverloadedError, match="bodies"):
        held[1].reserve_body(1)
    capacity.begin_authentication()
    with pytest.raises(OverloadedError, match="authenticated"):
        capacity.begin_authentication()
    capacity.end_authentication()
    capacity.begin_authentication()

    assert slots.value.retry_after_s == 1
    assert capacity.refusals == {Limit.AUTHENTICATION: 1, Limit.SLOTS: 1, Limit.BODY_BYTES: 1}
    assert (capacity.slots.in_use, capacity.body_bytes.in_use, capacity.authenticating) == (3, 75, 1)
    of(capacity, B).reserve_body(25)


def test_releasing_a_reservation_is_idempotent() -> None:
    """The body can be released before the slot."""
    capacity = Capacity(slots=4, body_bytes=100, max_authenticating=1)
    one, other = of(capacity, A), of(capacity, A)
    one.reserve_body(10)
    one.reserve_body(0)
    one.reserve_body(5)
    other.reserve_body(7)
    one.release_body()
    one.release_body()
    assert (capacity.slots.in_use, capacity.body_bytes.in_use) == (2, 7)
    one.release()
    one.release()
    assert (capacity.slots.in_use, capacity.body_bytes.in_use) == (1, 7)
    other.release()
    other.release_body()
    assert (capacity.slots.in_use, capacity.body_bytes.in_use) == (0, 0)


def test_a_refused_reservation_uses_no_capacity() -> None:
    """It has neither a slot nor the refused bytes."""
    capacity = Capacity(slots=1, body_bytes=100, max_authenticating=1)
    held = of(capacity, A)
    refused = Reservation(capacity)
    with pytest.raises(OverloadedError):
        refused.take_slot(A)
    refused.release()
    with pytest.raises(OverloadedError):
        held.reserve_body(101)
    held.release()
    assert (capacity.slots.in_use, capacity.body_bytes.in_use) == (0, 0)


def test_bodies_beyond_the_burst_are_delayed_to_the_rate() -> None:
    """The first megabyte is not delayed; each further one takes a second. Another organization is not delayed."""
    pace = BodyRateLimit(bytes_per_s=1 << 20, burst_bytes=1 << 20)

    assert pace.delay_s(A, 1 << 20, 100.0) == 0
    assert pace.delay_s(A, 1 << 20, 100.0) == pytest.approx(1.0)
    assert pace.delay_s(B, 1 << 20, 100.0) == 0
    assert pace.delay_s(A, 1 << 19, 101.0) == pytest.approx(0.5)


def test_a_pause_restores_the_burst() -> None:
    """A long pause restores no more than the burst."""
    pace = BodyRateLimit(bytes_per_s=1 << 20, burst_bytes=1 << 20)
    pace.delay_s(A, 4 << 20, 100.0)

    assert pace.delay_s(A, 1 << 20, 1_000.0) == 0
    assert pace.delay_s(A, 1 << 20, 1_000.0) == pytest.approx(1.0)


def test_the_memory_of_the_body_rate_limit_is_bounded() -> None:
    """The bucket of an organization is removed once it is full again."""
    pace = BodyRateLimit()
    for number in range(5_000):
        pace.delay_s(UUID(int=number), 1, float(number))
    assert pace.organizations < 2_000
