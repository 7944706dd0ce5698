"""Tests that every series of an alert is exported from the start, so that its first increase is visible."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.journal_entries import FullJournal
from harness.memory.clock import ManualClock
from ibex.adapters.http_server.openapi import operation_paths
from ibex.adapters.telemetry.auth_calls import AuthCallTelemetry
from ibex.adapters.telemetry.capacity import CapacityTelemetry
from ibex.adapters.telemetry.freshness import WatchTelemetry
from ibex.adapters.telemetry.metrics import Metrics
from ibex.adapters.telemetry.ops import AuthMetrics
from ibex.adapters.telemetry.reloads import ReloadTelemetry
from ibex.adapters.telemetry.round_trips import RedisTelemetry
from ibex.domain.errors import ErrorCode
from ibex.domain.proxying.capacity import Capacity, Limit
from ibex.domain.record.journal import Sink
from ibex.entrypoints.operations import OPERATIONS

ROOT = Path(__file__).parents[4]
NAME = re.compile(r"(ibex_(?:proxy|auth)_\w+)(?:\{([^}]*)\})?")
FAULTS = ("PROVIDER_UNAVAILABLE", "PROVIDER_TIMEOUT", "RATE_LIMITED", "INVALID_REQUEST", "OVERLOADED")
VALUES = {
    "ibex_proxy_journal_losses_total": {("sink", sink.value) for sink in Sink},
    "ibex_proxy_sink_dead_letters_total": {("sink", sink.value) for sink in Sink},
    "ibex_proxy_capacity_refusals_total": {("limit", limit.value) for limit in Limit},
    "ibex_proxy_redis_questions_total": {("outcome", one) for one in ("answered", "failed", "passed_over")},
    "ibex_auth_redis_questions_total": {("outcome", one) for one in ("answered", "failed", "passed_over")},
    "ibex_proxy_file_reloads_total": {("outcome", "refused")},
    "ibex_auth_file_reloads_total": {("outcome", "refused")},
    "ibex_proxy_provider_errors_total": {("provider", "openai"), *(("code", code) for code in FAULTS)},
}
"""The labels of the counters that alerts name, each with its values."""


def expressions() -> list[str]:
    """Return the expressions of the alerts on the page, and the rule files in ``deploy``."""
    page = (ROOT / "docs" / "metrics.md").read_text().split("## Alerts")[1]
    found = [line.split("`")[1] for line in page.splitlines() if line.startswith("|") and "`" in line]
    texts = [path.read_text() for path in sorted((ROOT / "deploy").rglob("*.y*ml"))]
    return [*found, *(text for text in texts if "- alert:" in text)]


def named() -> list[tuple[str, str]]:
    """Return the metrics that the alerts use, each with the labels of its selector."""
    pairs = {match.groups(default="") for expression in expressions() for match in NAME.finditer(expression)}
    return sorted((name, labels) for name, labels in pairs)


@cache
def exported() -> dict[str, list[dict[str, str]]]:
    """Return the labels of every sample, by name, of a proxy and an auth service that have just started."""
    clock = ManualClock()
    proxy = Metrics(
        clock,
        FullJournal(),
        providers=["openai"],
        routes=[path for operation in OPERATIONS for path in operation_paths(operation)],
    )
    RedisTelemetry(proxy.registry)
    WatchTelemetry(proxy.registry)
    CapacityTelemetry(proxy.registry, Capacity(slots=8, body_bytes=1 << 20, max_authenticating=8))
    auth = AuthMetrics()
    RedisTelemetry(auth.registry)
    AuthCallTelemetry(auth)
    for registry in (proxy.registry, auth.registry):
        ReloadTelemetry(registry, ["IBEX_REDIS_URL_FILE"])
    proxy.registry.heartbeat()
    found: dict[str, list[dict[str, str]]] = {}
    for metrics in (proxy, auth):
        for family in text_string_to_metric_families(metrics.render()[0].decode()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(dict(sample.labels))
                if sample.name.startswith("ibex_") and sample.name.endswith("_total"):
                    assert sample.value == 0
    return found


def test_the_documentation_lists_alerts() -> None:
    """The tests below read the alerts from a table in the documentation."""
    assert len(expressions()) >= 15
    assert ("ibex_proxy_journal_losses_total", "") in named()


@pytest.mark.parametrize(("name", "labels"), named(), ids=lambda value: value)
def test_every_series_of_an_alert_is_exported_from_the_start(name: str, labels: str) -> None:
    """Each series exists with every label value, so that its first increase starts at 0."""
    samples = exported().get(name, [])
    for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
        samples = [sample for sample in samples if f'{label}!="{value}"' in labels or sample.get(label) == value]
    assert samples
    own = {(label, value) for sample in samples for label, value in sample.items()}
    assert own >= VALUES.get(name, set())
    if name.endswith("_total") and own:
        assert name in VALUES, "the values of its labels belong here"


def test_every_exported_provider_error_code_is_an_error_code_of_ibex() -> None:
    """The metric uses the error codes that clients receive."""
    assert set(FAULTS) <= {code.value for code in ErrorCode}
