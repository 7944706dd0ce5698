"""Telemetry of files of secrets and certificates that change while the process runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ibex.adapters.telemetry.registry import Registry

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.files")


class ReloadTelemetry:
    """A ``FileObserver``. It counts and logs each changed file."""

    def __init__(self, registry: Registry, names: Iterable[str]) -> None:
        """Set the names of all files, whose series are exported from the start."""
        self._reloads = registry.counters(
            "file_reloads_total", "Changed files of secrets and certificates.", "variable", "outcome"
        )
        for name in names:
            for outcome in ("used", "refused"):
                self._reloads.of(name, outcome)

    def reloaded(self, name: str) -> None:
        """Count and log files that are in use."""
        self._reloads.of(name, "used").add()
        _LOG.info("changed file is in use", variable=name)

    def refused(self, name: str, reason: str) -> None:
        """Count and log files that cannot be used."""
        self._reloads.of(name, "refused").add()
        _LOG.warning("changed file cannot be used, the old value stays in use", variable=name, reason=reason)
