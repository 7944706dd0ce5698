"""The settings of OpenTelemetry's traces, under the names that its specification gives them; a part of ``Settings``.

Only what IBEX must know is here. The SDK reads all other ``OTEL_*`` variables (headers, timeouts, certificates,
compression, samplers, resource attributes) itself, from the process's environment.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.openai_settings import OpenAISettings
from ibex.entrypoints.setting_values import Secret, Variable, int_between, secret_url, setting, text

_URL = "an http:// or https:// URL"
_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings(OpenAISettings):
    """Sizes count spans; None where a variable is not set. A URL may hold a password."""

    otlp_endpoint: Secret[str] | None = setting(
        None,
        Variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            secret_url("http", "https"),
            _URL,
            "Where OpenTelemetry spans are sent, below /v1/traces. Needs `pip install ibex-harness[otel]`.",
            is_secret=True,
        ),
    )
    otlp_traces_endpoint: Secret[str] | None = setting(
        None,
        Variable(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            secret_url("http", "https"),
            _URL,
            "The same, as the whole URL; it goes before the other.",
            is_secret=True,
        ),
    )
    otlp_protocol: str = setting(
        "http/protobuf",
        Variable("OTEL_EXPORTER_OTLP_PROTOCOL", text, "http/protobuf", "How they are sent; there is this way alone."),
    )
    traces_exporter: str = setting(
        "otlp", Variable("OTEL_TRACES_EXPORTER", text, "otlp or none", "none: no spans, whatever else is set.")
    )
    otel_disabled: str = setting("false", Variable("OTEL_SDK_DISABLED", text, "true or false", "true: the same."))
    span_queue: int = setting(
        2_048,
        Variable(
            "OTEL_BSP_MAX_QUEUE_SIZE",
            int_between(16, 1_000_000),
            "16 to 1000000",
            "Spans that wait to be sent, for each worker; a request has up to six, and has none if there is no room.",
        ),
    )
    span_batch: int = setting(
        128,
        Variable(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            int_between(1, 1_000_000),
            "1 to 1000000",
            "Spans that are sent together; larger batches hold requests up for longer.",
        ),
    )

    @property
    def traces_url(self) -> str | None:
        """Where spans are sent; None where none are made."""
        if self.otel_disabled.lower() == "true" or self.traces_exporter == "none":
            return None
        if self.otlp_traces_endpoint is not None:
            return self.otlp_traces_endpoint.reveal()
        return None if self.otlp_endpoint is None else self.otlp_endpoint.reveal().rstrip("/") + _PATH
