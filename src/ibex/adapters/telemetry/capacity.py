"""Metrics of a worker's capacity: usage, and refusals by limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.proxying.capacity import Limit

if TYPE_CHECKING:
    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.proxying.capacity import Capacity


class CapacityTelemetry:
    """Exports the state of a ``Capacity``. It reads the state only when metrics are refreshed."""

    def __init__(self, registry: Registry, capacity: Capacity) -> None:
        self._capacity = capacity
        self._authenticating = registry.gauges("requests_authenticating", "Requests being authenticated.").of()
        self._slots = registry.gauges("request_slots_in_use", "Request slots that organizations hold.").of()
        self._body_bytes = registry.gauges("body_bytes_in_use", "Bytes of request bodies in flight.").of()
        refusals = registry.counters(
            "capacity_refusals_total", "Requests refused because a capacity limit was reached.", "limit"
        )
        self._refusals = {limit: refusals.of(limit) for limit in Limit}
        registry.on_refresh(self._refresh)

    def _refresh(self) -> None:
        capacity = self._capacity
        self._authenticating.set(capacity.authenticating)
        self._slots.set(capacity.slots.in_use)
        self._body_bytes.set(capacity.body_bytes.in_use)
        for limit, refusals in self._refusals.items():
            refusals.catch_up(capacity.refusals[limit])
