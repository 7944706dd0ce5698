"""Metrics of a worker's capacity: usage, and refusals by limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.proxying.capacity import Limit

if TYPE_CHECKING:
    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.proxying.capacity import Capacity


class CapacityTelemetry:
    """Reads a ``Capacity`` when metrics are scraped, at no cost to requests."""

    def __init__(self, registry: Registry, capacity: Capacity) -> None:
        self._capacity = capacity
        self._authenticating = registry.gauges("requests_authenticating", "Requests being authenticated.").of()
        self._slots = registry.gauges("request_slots_in_use", "Request slots that organizations hold.").of()
        self._body_bytes = registry.gauges("body_bytes_in_use", "Bytes of request bodies in flight.").of()
        refusals = registry.counters("capacity_refusals_total", "Requests refused for want of capacity.", "limit")
        self._refusals = {limit: refusals.of(limit) for limit in Limit}
        registry.refreshed_by(self._refresh)

    def _refresh(self) -> None:
        capacity = self._capacity
        self._authenticating.set(capacity.authenticating)
        self._slots.set(capacity.slots.in_use)
        self._body_bytes.set(capacity.body_bytes.in_use)
        for limit, refusals in self._refusals.items():
            refusals.catch_up(capacity.refusals[limit])
