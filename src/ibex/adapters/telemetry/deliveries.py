"""Telemetry of the delivery to the sinks: metrics for every batch, log lines for outages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from ibex.adapters.telemetry.metrics import Metrics
    from ibex.domain.record.journal import Sink

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.deliveries")


class DeliveryTelemetry:
    """A ``DeliveryObserver``. It logs two lines for each outage: the first failure and the recovery."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failing: set[Sink] = set()

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """Count a batch that a sink stored, and log the end of an outage."""
        self._metrics.delivered(sink, rows, duration_ns)
        if sink in self._failing:
            self._failing.discard(sink)
            _LOG.info("sink available again", sink=sink)

    def failed(self, sink: Sink, rows: int, reason: str) -> None:
        """Count a batch that a sink could not store, and log the first failure of an outage."""
        self._metrics.sink_failed(sink)
        if sink not in self._failing:
            self._failing.add(sink)
            _LOG.warning("sink unavailable", sink=sink, rows=rows, reason=reason)

    def dead_lettered(self, sink: Sink, reason: str) -> None:
        """Count and log an exchange that a sink rejects for good."""
        self._metrics.dead_lettered(sink)
        _LOG.error("exchange moved to the dead letters", sink=sink, reason=reason)
