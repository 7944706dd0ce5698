"""Tests of the metrics of a worker's capacity."""

from __future__ import annotations

from uuid import UUID

import pytest

from ibex.adapters.telemetry.capacity import CapacityTelemetry
from ibex.adapters.telemetry.registry import Registry
from ibex.domain.errors import OverloadedError
from ibex.domain.proxying.capacity import Capacity, Reservation


def test_usage_and_refusals_are_exported() -> None:
    """Each limit has its counter from the start. A refusal counts once, however often metrics are rendered."""
    capacity = Capacity(slots=1, body_bytes=100, max_authenticating=10)
    registry = Registry("ibex_proxy_")
    CapacityTelemetry(registry, capacity)
    before, _ = registry.render()

    reservation = Reservation(capacity)
    capacity.begin_authentication()
    reservation.take_slot(UUID(int=1))
    reservation.reserve_body(40)
    with pytest.raises(OverloadedError):
        Reservation(capacity).take_slot(UUID(int=1))
    registry.render()
    after, _ = registry.render()

    for limit in (b"authentication", b"slots", b"body_bytes"):
        assert b'ibex_proxy_capacity_refusals_total{limit="%b"} 0' % limit in before
    for line in (
        b"ibex_proxy_requests_authenticating 1",
        b"ibex_proxy_request_slots_in_use 1",
        b"ibex_proxy_body_bytes_in_use 40",
        b'ibex_proxy_capacity_refusals_total{limit="slots"} 1',
        b'ibex_proxy_capacity_refusals_total{limit="body_bytes"} 0',
    ):
        assert line in after
