"""Tests that every changed file is counted and logged with its variable."""

from __future__ import annotations

from structlog.testing import capture_logs

from ibex.adapters.telemetry.registry import Registry
from ibex.adapters.telemetry.reloads import ReloadTelemetry


def test_changed_files_are_counted_from_zero_and_logged() -> None:
    """A file that cannot be used is a warning with the reason."""
    registry = Registry("ibex_proxy_")
    telemetry = ReloadTelemetry(registry, ["A_FILE", "B_FILE"])

    with capture_logs() as logged:
        telemetry.reloaded("A_FILE")
        telemetry.refused("A_FILE", "it is empty")

    assert [(line["log_level"], line["variable"], line.get("reason")) for line in logged] == [
        ("info", "A_FILE", None),
        ("warning", "A_FILE", "it is empty"),
    ]
    text = registry.render()[0].decode()
    for variable, count in (("A_FILE", 1.0), ("B_FILE", 0.0)):
        for outcome in ("used", "refused"):
            assert f'ibex_proxy_file_reloads_total{{outcome="{outcome}",variable="{variable}"}} {count}' in text
