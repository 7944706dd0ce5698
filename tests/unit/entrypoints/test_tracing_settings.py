"""The settings of tracing, which have the names that OpenTelemetry's specification gives them."""

from __future__ import annotations

import pytest

from ibex.entrypoints.settings import Settings
from ibex.entrypoints.start_warnings import ignored_in_environment

ENDPOINT, TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, None),
        ({ENDPOINT: "http://collector:4318"}, "http://collector:4318/v1/traces"),
        ({ENDPOINT: "http://collector:4318/otlp/"}, "http://collector:4318/otlp/v1/traces"),
        ({TRACES: "https://elsewhere/spans"}, "https://elsewhere/spans"),
        ({ENDPOINT: "http://collector:4318", TRACES: "https://elsewhere/spans"}, "https://elsewhere/spans"),
        ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "false"}, "http://collector:4318/v1/traces"),
    ],
)
def test_the_endpoint_of_spans(environ: dict[str, str], url: str | None) -> None:
    """As OpenTelemetry specifies: a base URL to which the path is added, or the full URL for traces."""
    assert Settings.load(environ).traces_url == url


def test_an_invalid_endpoint_is_ignored_and_reported_without_its_value() -> None:
    """The value may contain a password. The variable is the platform's, so it does not keep IBEX from starting."""
    environ = {ENDPOINT: "collector:4318/canary"}

    assert Settings.load(environ).traces_url is None
    (message,) = ignored_in_environment(Settings.load(environ), environ)
    assert message.startswith(f"{ENDPOINT} is (a secret, not shown); allowed: an http:// or https:// URL.")
    assert "canary" not in message


def test_a_queue_that_is_too_small_is_ignored() -> None:
    """The queue must hold the spans of at least one request. The default is used, and the message says so."""
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "5"}

    assert Settings.load(environ).span_queue == Settings.load({}).span_queue
    (message,) = ignored_in_environment(Settings.load(environ), environ)
    assert message == "OTEL_BSP_MAX_QUEUE_SIZE is '5'; allowed: 16 to 1000000. It is ignored."
