"""The metric of dropped log lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.telemetry.logging import lines_dropped

if TYPE_CHECKING:
    from ibex.adapters.telemetry.registry import Registry


def count_dropped_lines(registry: Registry) -> None:
    """Declare the counter of log lines that this process could not write."""
    counter = registry.counter("log_lines_dropped_total", "Log lines that could not be written.")
    counter.catch_up(lines_dropped())
    registry.on_refresh(lambda: counter.catch_up(lines_dropped()))
