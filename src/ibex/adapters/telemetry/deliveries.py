"""How delivery to the sinks goes: counted always, written down when it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from ibex.adapters.telemetry.metrics import Metrics
    from ibex.domain.record.journal import Sink

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.deliveries")


class DeliveryTelemetry:
    """A ``DeliveryObserver``. An outage is two lines, its first failure and its end, however often it is retried."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failing: set[Sink] = set()

    def delivered(self, sink: Sink, rows: int, duration_ns: int) -> None:
        """A sink took a batch."""
        self._metrics.delivered(sink, rows, duration_ns)
        if sink in self._failing:
            self._failing.discard(sink)
            _LOG.info("sink takes batches again", sink=sink)

    def failed(self, sink: Sink, rows: int, reason: str) -> None:
        """A sink could not take a batch."""
        self._metrics.sink_failed(sink)
        if sink not in self._failing:
            self._failing.add(sink)
            _LOG.warning("sink takes no batches", sink=sink, rows=rows, reason=reason)

    def dead_lettered(self, sink: Sink, reason: str) -> None:
        """A sink will never take an exchange."""
        self._metrics.dead_lettered(sink)
        _LOG.error("exchange laid aside in the dead letters", sink=sink, reason=reason)
