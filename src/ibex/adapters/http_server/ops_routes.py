"""Routes for operators: health, readiness and metrics. They need no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, Response, get

from ibex.adapters.http_server.context import context_of
from ibex.adapters.http_server.openapi import error_responses
from ibex.adapters.http_server.readiness import Health, ReadinessReport
from ibex.adapters.http_server.representations import Liveness
from ibex.domain.errors import ErrorCode, ServiceDegradedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litestar.handlers import HTTPRouteHandler

    from ibex.adapters.http_server.errors import ErrorResponses
    from ibex.adapters.http_server.readiness import Readiness

_CHARSET = "; charset=utf-8"
_OPEN: list[dict[str, list[str]]] = [{}]
"""The security requirement of a route that needs no token."""


def ops_handlers(
    readiness: Readiness, errors: ErrorResponses, render_metrics: Callable[[], tuple[bytes, str]] | None
) -> Sequence[HTTPRouteHandler]:
    """Return the handlers. ``render_metrics`` returns the metrics and their content type; None leaves them out."""

    @get("/health", summary="Report whether the process is alive.", security=_OPEN)
    async def health() -> Liveness:
        return Liveness()

    @get(
        "/ready",
        summary="Report whether the process should be sent requests.",
        security=_OPEN,
        responses=error_responses(ErrorCode.SERVICE_DEGRADED),
    )
    async def ready(request: Request[Any, Any, Any]) -> Response[ReadinessReport]:
        report = await readiness.report()
        if report.status is not Health.UNHEALTHY:
            return Response(report)
        envelope = errors.envelope(ServiceDegradedError("The proxy is not ready."), context_of(request.scope))
        content: Any = msgspec.to_builtins(report) | envelope
        return Response(content, status_code=503)

    if render_metrics is None:
        return [health, ready]

    @get("/metrics", summary="Return the metrics in Prometheus's format.", media_type="text/plain", security=_OPEN)
    async def metrics() -> Response[bytes]:
        body, content_type = render_metrics()
        return Response(body, media_type=content_type.removesuffix(_CHARSET))  # which the framework adds again

    return [health, ready, metrics]
