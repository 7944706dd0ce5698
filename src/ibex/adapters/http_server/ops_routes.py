"""Routes for who runs the proxy: health, readiness, metrics, and the description of all routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ibex.adapters.http_server.asgi import JSON, Response
from ibex.adapters.http_server.context import context_of
from ibex.adapters.http_server.readiness import Health
from ibex.domain.errors import ServiceDegradedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ibex.adapters.http_server.asgi import Receive, Scope, Send
    from ibex.adapters.http_server.errors import ErrorAnswers
    from ibex.adapters.http_server.readiness import Readiness

_ALIVE = Response(200, JSON, b'{"status":"ok","checks":{}}', [])


class OpsRoutes:
    """ASGI applications that need no caller."""

    def __init__(
        self,
        readiness: Readiness,
        errors: ErrorAnswers,
        render_metrics: Callable[[], tuple[bytes, str]],
        schema: dict[str, Any],
    ) -> None:
        """Take what renders the metrics to a body and its content type, and the OpenAPI document."""
        self._readiness = readiness
        self._errors = errors
        self._render_metrics = render_metrics
        self._schema = Response(200, JSON, msgspec.json.encode(schema), [])

    async def health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say that the process is alive; touches nothing."""
        await _ALIVE(scope, receive, send)

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say how the checks came out; a 503 is an envelope too, as every error is."""
        report = await self._readiness.report()
        content = msgspec.to_builtins(report)
        status = 200
        if report.status is Health.UNHEALTHY:
            status = 503
            content |= self._errors.envelope(ServiceDegradedError("The proxy is not ready."), context_of(scope))
        await Response(status, JSON, msgspec.json.encode(content), [])(scope, receive, send)

    async def metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Show the metrics as they are now."""
        body, content_type = self._render_metrics()
        await Response(200, content_type.encode("latin-1"), body, [])(scope, receive, send)

    async def schema(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Show the OpenAPI document."""
        await self._schema(scope, receive, send)
