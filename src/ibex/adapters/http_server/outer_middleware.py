"""The outermost middleware: it sets request ids and common response headers, and turns exceptions into envelopes."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from litestar.exceptions import MethodNotAllowedException

from ibex.adapters.http_server.asgi import START
from ibex.adapters.http_server.context import RequestContext
from ibex.adapters.http_server.direct_request import common_headers
from ibex.adapters.http_server.errors import domain_error, status_of
from ibex.adapters.http_server.request_fields import offers_websocket
from ibex.domain.errors import ClientClosedRequestError, InternalError, UpgradeRefusedError

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import App, Message, Receive, Response, Scope, Send
    from ibex.adapters.http_server.direct_request import DirectClient, DirectRoutes
    from ibex.adapters.http_server.early_refusal import EarlyRefusals
    from ibex.adapters.http_server.errors import ErrorResponses
    from ibex.adapters.http_server.observer import RequestObserver
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource


REFUSED: Final = "ibex.refused"
"""A scope extension: the error with which the server refuses a request that it could not parse."""
FastPath: TypeAlias = "tuple[str, App]"
"""The path template and the application of a route."""
_NO_FAST_PATHS: Final[Mapping[tuple[str, bytes], FastPath]] = MappingProxyType({})


class OuterMiddleware:
    """An ASGI application around the routes. It reports all requests to the observer and handles all exceptions."""

    def __init__(
        self,
        app: App,
        errors: ErrorResponses,
        observer: RequestObserver,
        clock: Clock,
        ids: IdSource,
        *,
        fast_paths: Mapping[tuple[str, bytes], FastPath] = _NO_FAST_PATHS,
        early_refusals: EarlyRefusals | None = None,
    ) -> None:
        """Set the router, and the routes that bypass it (ADR 0020), by method and raw path, with their templates.

        ``early_refusals`` is for the server protocol, which refuses such requests without calling this application.
        """
        self.early_refusals = early_refusals
        self.direct_routes: DirectRoutes | None = None
        """The routes whose requests the server protocol passes to ``serve_directly``."""
        self._app = app
        self._fast_paths = fast_paths
        self._errors = errors
        self._observer = observer
        self._clock = clock
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. After an exception in the middle of a response, the server closes the connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext.begin(scope, self._ids, self._clock.monotonic_ns())
        self._observer.began(context.request_id, context.trace_id, context.parent)
        response = _ResponseHead(send, context, self._clock)
        try:
            if REFUSED in scope.get("extensions", {}):
                raise scope["extensions"][REFUSED]  # noqa: TRY301 - handled like any other error
            if b"upgrade" in context.fields:
                _refuse_websocket(scope, context)
            fast_path = self._fast_paths.get((scope["method"], scope["raw_path"]))
            if fast_path is None:
                await self._app(scope, receive, response.send)
            else:
                scope["path_template"], route = fast_path  # for other requests, the router sets it
                await route(scope, receive, response.send)
        except Exception as error:  # noqa: BLE001 - the outermost handler
            await self._fail(error, scope, receive, context, response)
        finally:
            self._observer.ended(
                scope["method"],
                scope.get("path_template", ""),
                response.status or status_of(ClientClosedRequestError()),
                self._clock.monotonic_ns() - context.started_ns,
                context.in_flight,
            )

    async def serve_directly(self, client: DirectClient) -> None:
        """Serve one direct request (ADR 0051), like ``__call__`` without ASGI."""
        route, clock = client.route, self._clock
        context = client.context = RequestContext.of(client.fields, self._ids, clock.monotonic_ns())
        self._observer.began(context.request_id, context.trace_id, context.parent)
        try:
            await route.serve(context, client, route.path_template)
        except Exception as error:  # noqa: BLE001 - the outermost handler
            response = self._error_response(error, context)
            if client.status is None:
                await client.send_response(response)
        finally:
            self._observer.ended(
                route.method,
                route.path_template,
                client.status or status_of(ClientClosedRequestError()),
                clock.monotonic_ns() - context.started_ns,
                context.in_flight,
            )
            client.end()

    async def _fail(
        self, error: Exception, scope: Scope, receive: Receive, context: RequestContext, response: _ResponseHead
    ) -> None:
        rendered = self._error_response(error, context)
        if response.status is None:
            await rendered(scope, receive, response.send)

    def _error_response(self, error: Exception, context: RequestContext) -> Response:
        """Return the response for an exception, and report it if it is a bug."""
        mapped = domain_error(error)
        if isinstance(mapped, InternalError):
            self._observer.failed(error)
        return self._errors.response(mapped, context, allow=_allowed_methods(error))


class _ResponseHead:
    """Forwards a response, and adds the common headers to its head."""

    __slots__ = ("_clock", "_context", "_send", "status")

    def __init__(self, send: Send, context: RequestContext, clock: Clock) -> None:
        self._send = send
        self._context = context
        self._clock = clock
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == START:
            self.status = message["status"]
            took_ms = (self._clock.monotonic_ns() - self._context.started_ns) / 1e6
            message = {**message, "headers": [*message["headers"], *common_headers(self._context, took_ms)]}
        await self._send(message)


def _refuse_websocket(scope: Scope, context: RequestContext) -> None:
    """Raise ``UpgradeRefusedError`` for an upgrade to WebSocket, so that the client falls back to HTTP at once.

    IBEX ignores other upgrades, and all upgrades in HTTP/1.0 (RFC 9110, section 7.8).
    """
    if scope["http_version"] == "1.1" and offers_websocket(context.fields[b"upgrade"]):
        raise UpgradeRefusedError


def _allowed_methods(error: Exception) -> str | None:
    """Return the methods for the Allow header of a 405. Litestar adds OPTIONS, which IBEX's routes refuse."""
    if not isinstance(error, MethodNotAllowedException):
        return None
    methods = (error.headers or {}).get("allow", "").split(", ")
    return ", ".join(method for method in methods if method != "OPTIONS") or None
