"""What `ibex serve` warns of at start, and `ibex doctor` lists."""

from __future__ import annotations

from harness.logs import logged
from ibex.entrypoints.settings import Settings
from ibex.entrypoints.start_warnings import ignored_in_environment, warn_of_environment

ENVIRON = {
    "IBEX_PORT": "tcp://10.0.0.1:8080",
    "IBEX_SERVICE_HOST": "10.0.0.1",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    "OTEL_BSP_MAX_QUEUE_SIZE": "many",
    "OPENAI_API_KEY": "sk-test",
    "HTTPS_PROXY": "http://proxy:3128",
}


def test_each_kind_of_ignored_variable_is_one_warning() -> None:
    """Variables of Kubernetes together are one line, however many there are."""
    settings = Settings.load(ENVIRON)
    with logged() as lines:
        warn_of_environment(settings, ENVIRON)

    assert [line["event"].split()[0] for line in lines] == [
        "Ignored",
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "HTTPS_PROXY",
    ]
    assert {line["level"] for line in lines} == {"warning"}
    assert ignored_in_environment(settings, ENVIRON) == [line["event"] for line in lines]


def test_an_environment_without_them_causes_no_warning() -> None:
    """This is also the case if tracing works."""
    environ = {"IBEX_PORT": "8080", "OTEL_SERVICE_NAME": "front", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"}
    assert ignored_in_environment(Settings.load(environ), environ) == []
