"""Tests of the counter of log lines that could not be written."""

from __future__ import annotations

import io

from harness.logs import logging_to, write_out
from ibex.adapters.telemetry.log_lines import count_dropped_lines
from ibex.adapters.telemetry.logging import lines_dropped, write_line
from ibex.adapters.telemetry.registry import Registry


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, _text: str) -> int:
        """Raise like a file on a full disk."""
        raise OSError(28, "No space left on device")


def test_dropped_log_lines_are_counted() -> None:
    """The counter is updated whenever metrics are rendered."""
    registry = Registry("test_")
    count_dropped_lines(registry)
    before = lines_dropped()
    with logging_to(Full()):
        write_line(lambda: b"{}\n")
        write_out()
    assert lines_dropped() == before + 1
    assert f"test_log_lines_dropped_total {lines_dropped():.1f}".encode() in registry.render()[0]
