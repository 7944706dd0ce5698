"""Telemetry of the sweep of idle sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from ibex.adapters.telemetry.registry import Registry

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.sessions")


class SweepTelemetry:
    """A ``SweepObserver``. It logs one line for each outage, and one for each sweep that abandoned sessions."""

    def __init__(self, registry: Registry) -> None:
        self._abandoned = registry.counter("sessions_abandoned_total", "Idle sessions that this process abandoned.")
        self._failures = registry.counter("session_sweep_failures_total", "Sweeps that failed.")
        self._is_failing = False

    def abandoned(self, sessions: int) -> None:
        """Count and log abandoned sessions."""
        self._abandoned.add(sessions)
        self._is_failing = False
        _LOG.info("idle sessions abandoned", sessions=sessions)

    def sweep_failed(self, reason: str) -> None:
        """Count a failed sweep, and log the first failure of an outage."""
        self._failures.add()
        if not self._is_failing:
            self._is_failing = True
            _LOG.warning("sweep of idle sessions failed", reason=reason)
