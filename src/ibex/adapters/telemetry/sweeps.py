"""How sweeping idle sessions goes: counted always, written down when it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from ibex.adapters.telemetry.registry import Registry

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.sessions")


class SweepTelemetry:
    """A ``SweepObserver``. An outage is one line, however long; what was swept after it is another."""

    def __init__(self, registry: Registry) -> None:
        self._abandoned = registry.counter("sessions_abandoned_total", "Idle sessions that this process abandoned.")
        self._failures = registry.counter("session_sweep_failures_total", "Sweeps that could not be made to their end.")
        self._is_failing = False

    def abandoned(self, sessions: int) -> None:
        """Count them."""
        self._abandoned.add(sessions)
        self._is_failing = False
        _LOG.info("idle sessions abandoned", sessions=sessions)

    def sweep_failed(self, reason: str) -> None:
        """Count it."""
        self._failures.add()
        if not self._is_failing:
            self._is_failing = True
            _LOG.warning("idle sessions cannot be abandoned now", reason=reason)
