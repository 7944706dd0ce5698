"""Wiring of OpenTelemetry. Its packages are only imported if the settings enable tracing."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from ibex.adapters.http_server.observer import RequestObserver
    from ibex.adapters.telemetry.registry import Registry
    from ibex.adapters.telemetry.requests import RequestTelemetry
    from ibex.adapters.telemetry.span_export import SpanExport
    from ibex.adapters.telemetry.spans import ServerAddress
    from ibex.domain.clock import Clock
    from ibex.entrypoints.settings import Settings

_LOG: Final = logging.getLogger("ibex.settings")
_NOT_EXPORTED: Final = "No spans are exported."
SERVICE: Final = "ibex-proxy"
_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_PORTS: Final = {"http": 80, "https": 443}


def tracing_problem(settings: Settings) -> str | None:
    """Return a message if the settings enable tracing but spans cannot be exported, else None.

    The platform shares these variables with other programs, so they do not keep IBEX from serving.
    """
    if settings.traces_url is None:
        return None
    if settings.otlp_protocol != "http/protobuf":
        return f"OTEL_EXPORTER_OTLP_PROTOCOL is {settings.otlp_protocol!r}; allowed: http/protobuf. {_NOT_EXPORTED}"
    if settings.traces_exporter != "otlp":
        return f"OTEL_TRACES_EXPORTER is {settings.traces_exporter!r}; allowed: otlp or none. {_NOT_EXPORTED}"
    if not _is_installed("opentelemetry.sdk.trace") or not _is_installed(_EXPORTER):
        name = (
            "OTEL_EXPORTER_OTLP_ENDPOINT"
            if settings.otlp_traces_endpoint is None
            else "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
        )
        return f"{name} is set, which needs `pip install ibex-harness[otel]`. {_NOT_EXPORTED}"
    return None


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def span_export(settings: Settings, registry: Registry, clock: Clock) -> SpanExport | None:
    """Return the exporter of spans, None if tracing is off or ``tracing_problem`` has a message."""
    url = settings.traces_url
    if url is None or tracing_problem(settings) is not None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra

    from ibex.adapters.telemetry.span_export import SpanExport  # noqa: PLC0415 - needs the extra

    return SpanExport(
        lambda: OTLPSpanExporter(endpoint=url),
        registry,
        clock,
        max_queue=settings.span_queue,
        max_batch=settings.span_batch,
    )


def request_observer(
    telemetry: RequestTelemetry, export: SpanExport | None, settings: Settings, clock: Clock
) -> RequestObserver:
    """Return the observer of requests: the telemetry itself, or with tracing a wrapper that also exports spans."""
    if export is None:
        return telemetry
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - an extra

    from ibex.adapters.telemetry.spans import SpanMaker  # noqa: PLC0415 - needs the extra
    from ibex.adapters.telemetry.traced_requests import TracedRequests  # noqa: PLC0415 - the same

    try:
        resource = _resource()
        sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler  # reads OTEL_TRACES_SAMPLER
    except Exception as error:  # noqa: BLE001 - the SDK parses further variables of the platform
        _LOG.warning("OpenTelemetry rejected a setting (%s). %s", type(error).__name__, _NOT_EXPORTED)
        return telemetry
    return TracedRequests(telemetry, SpanMaker(resource, sampler, _providers(settings)), export, clock)


def _resource() -> Resource:
    """Return the resource of the environment, with the service name ``ibex-proxy`` if the environment has none.

    The SDK adds an instance id for each process.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource  # noqa: PLC0415 - an extra

    from ibex import __version__  # noqa: PLC0415 - only needed here

    configured = Resource.create()
    own = Resource({SERVICE_VERSION: __version__}).merge(configured)
    if str(configured.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return own.merge(Resource({SERVICE_NAME: SERVICE}))
    return own


def _providers(settings: Settings) -> dict[str, ServerAddress]:
    from ibex.adapters.telemetry.spans import ServerAddress  # noqa: PLC0415 - needs the extra

    if settings.openai_api_key is None:
        return {}  # the echo provider has no server
    parts = urlsplit(settings.openai_base_url)
    return {"openai": ServerAddress(parts.hostname or "", parts.port or _PORTS[parts.scheme])}
