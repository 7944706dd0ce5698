"""The settings of OpenTelemetry traces, a part of ``Settings``. The names are those of OpenTelemetry's specification.

The SDK reads all other ``OTEL_*`` variables (headers, timeouts, certificates, compression, samplers, resource
attributes) itself, from the environment of the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.openai_settings import OpenAISettings
from ibex.entrypoints.setting_values import Secret, Variable, int_between, secret_url, setting, text

_URL = "an http:// or https:// URL"
_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings(OpenAISettings):
    """The destination and the queue of spans. Sizes are numbers of spans. A URL can contain a password."""

    otlp_endpoint: Secret[str] | None = setting(
        None,
        Variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            secret_url("http", "https"),
            _URL,
            "The base URL for OpenTelemetry spans, which go to its /v1/traces. Needs `pip install ibex-harness[otel]`.",
            is_secret=True,
        ),
    )
    otlp_traces_endpoint: Secret[str] | None = setting(
        None,
        Variable(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            secret_url("http", "https"),
            _URL,
            "The full URL for spans. It takes precedence over OTEL_EXPORTER_OTLP_ENDPOINT.",
            is_secret=True,
        ),
    )
    otlp_protocol: str = setting(
        "http/protobuf",
        Variable(
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            text,
            "http/protobuf",
            "The protocol of the spans. IBEX supports only http/protobuf; with another one, it sends none and warns.",
        ),
    )
    traces_exporter: str = setting(
        "otlp", Variable("OTEL_TRACES_EXPORTER", text, "otlp or none", "`none` turns spans off.")
    )
    otel_disabled: str = setting(
        "false", Variable("OTEL_SDK_DISABLED", text, "true or false", "`true` turns spans off.")
    )
    span_queue: int = setting(
        2_048,
        Variable(
            "OTEL_BSP_MAX_QUEUE_SIZE",
            int_between(16, 1_000_000),
            "16 to 1000000",
            "Spans that wait to be sent, per worker. A request has up to six. If the queue has no room for them, IBEX "
            "drops all spans of the request.",
        ),
    )
    span_batch: int = setting(
        128,
        Variable(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            int_between(1, 1_000_000),
            "1 to 1000000",
            "Spans that are sent in one batch. A larger batch delays concurrent requests for longer.",
        ),
    )

    @property
    def traces_url(self) -> str | None:
        """The URL that spans are sent to; None if tracing is off."""
        if self.otel_disabled.lower() == "true" or self.traces_exporter == "none":
            return None
        if self.otlp_traces_endpoint is not None:
            return self.otlp_traces_endpoint.reveal()
        return None if self.otlp_endpoint is None else self.otlp_endpoint.reveal().rstrip("/") + _PATH
