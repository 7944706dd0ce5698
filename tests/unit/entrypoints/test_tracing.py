"""Wiring of OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.logs import logged
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.telemetry.registry import Registry
from ibex.adapters.telemetry.traced_requests import TracedRequests
from ibex.entrypoints.containers import Application, application_of
from ibex.entrypoints.environments import EmbeddedAdapters
from ibex.entrypoints.settings import Settings
from ibex.entrypoints.tracing import span_export, tracing_problem

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
HERE = "http://127.0.0.1:1"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return settings of servers that do not exist."""
    return {
        "IBEX_DATABASE_URL": "postgresql://ibex_app@127.0.0.1:1/ibex",
        "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth@127.0.0.1:1/ibex",
        "IBEX_CLICKHOUSE_URL": HERE,
        "IBEX_TOKEN_PEPPERS": "k:AAECAwQFBgcICQoLDA0ODw==",
        "IBEX_JOURNAL_DIR": str(tmp_path / "journal"),
    }


def application(environ: dict[str, str]) -> Application:
    """Return the application with these settings."""
    return application_of(EmbeddedAdapters(), Settings.load(environ))


def test_without_the_setting_requests_are_not_traced(environ: dict[str, str]) -> None:
    """The observer is the telemetry itself."""
    plain = application(environ)

    assert plain.span_export() is None
    assert plain.request_observer() is plain.request_telemetry()


def test_with_the_setting_requests_are_traced(environ: dict[str, str]) -> None:
    """The tracing observer wraps the same telemetry."""
    traced = application({**environ, ENDPOINT: HERE})

    assert traced.span_export() is traced.span_export()
    assert isinstance(traced.request_observer(), TracedRequests)


def test_without_the_setting_the_exporter_is_not_imported() -> None:
    """Neither are IBEX's modules for tracing. redis-py imports other parts of OpenTelemetry if installed."""
    program = (
        "import ibex.entrypoints.proxy, sys;"
        "ours = {'ibex.adapters.telemetry.' + name for name in ('spans', 'span_export', 'traced_requests')};"
        "sys.exit(any(name in ours or name.startswith('opentelemetry.exporter') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({ENDPOINT: HERE}, ENDPOINT),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": HERE}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    ],
)
@pytest.mark.parametrize("module", ["opentelemetry", EXPORTER])
def test_without_the_extra_the_message_names_it(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], named: str, module: str
) -> None:
    """The proxy serves without spans, and warns."""
    for name in [name for name in sys.modules if name.startswith(module)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # None makes the import fail

    settings = Settings.load(environ)
    assert tracing_problem(settings) == (
        f"{named} is set, which needs `pip install ibex-harness[otel]`. No spans are exported."
    )
    assert span_export(settings, Registry("test_"), SystemClock()) is None


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin")]
)
def test_an_unsupported_protocol_or_exporter_turns_spans_off(
    environ: dict[str, str], variable: str, value: str
) -> None:
    """The message names the value. Without an endpoint, there is nothing to say."""
    assert tracing_problem(Settings.load({**environ, variable: value})) is None

    wanted = {**environ, variable: value, ENDPOINT: HERE}
    plain = application(wanted)
    assert (tracing_problem(Settings.load(wanted)) or "").startswith(f"{variable} is '{value}'; allowed: ")
    assert plain.span_export() is None
    assert plain.request_observer() is plain.request_telemetry()


def test_a_value_that_the_sdk_rejects_turns_spans_off(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK parses further variables itself. A warning says so without the value."""
    monkeypatch.setattr("ibex.entrypoints.tracing._resource", lambda: 1 // 0)
    with logged() as lines:
        traced = application({**environ, ENDPOINT: HERE})
        assert traced.request_observer() is traced.request_telemetry()

    assert [line["event"] for line in lines] == [
        "OpenTelemetry rejected a setting (ZeroDivisionError). No spans are exported."
    ]


def test_the_resource_and_the_address_of_the_provider(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment can override the service name. Each process has its own instance id."""
    from ibex.entrypoints.tracing import _providers, _resource  # noqa: PLC0415 - the unit is private

    own = _resource().attributes
    assert own["service.name"] == "ibex-proxy"
    assert own["service.instance.id"]
    assert own["service.version"]
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,deployment.environment.name=test")
    assert _resource().attributes["service.name"] == "shop"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front")
    assert _resource().attributes["service.name"] == "front"
    assert _resource().attributes["deployment.environment.name"] == "test"

    assert _providers(Settings.load(environ)) == {}
    (address,) = _providers(Settings.load({"OPENAI_API_KEY": "sk-x"})).values()
    assert (address.host, address.port) == ("api.openai.com", 443)
