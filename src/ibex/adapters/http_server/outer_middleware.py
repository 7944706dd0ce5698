"""The outermost layer: gives every request its ids, every response its headers, every exception an envelope."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from litestar.exceptions import MethodNotAllowedException

from ibex.adapters.http_server.asgi import START
from ibex.adapters.http_server.context import RequestContext
from ibex.adapters.http_server.errors import domain_error, status_of
from ibex.domain.errors import ClientClosedRequestError, InternalError

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import App, Message, Receive, Scope, Send
    from ibex.adapters.http_server.early_refusal import EarlyRefusals
    from ibex.adapters.http_server.errors import ErrorAnswers
    from ibex.adapters.http_server.observer import RequestObserver
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource


REFUSED: Final = "ibex.refused"
"""A scope's extension: the error that the server itself found the request to be."""
_NONE: Final[Mapping[tuple[str, bytes], App]] = MappingProxyType({})


class OuterMiddleware:
    """An ASGI application around the routes. The one place where requests are counted and exceptions end."""

    def __init__(
        self,
        app: App,
        errors: ErrorAnswers,
        observer: RequestObserver,
        clock: Clock,
        ids: IdSource,
        *,
        fast_paths: Mapping[tuple[str, bytes], App] = _NONE,
        early_refusals: EarlyRefusals | None = None,
    ) -> None:
        """Take the router, and the routes that bypass it (ADR 0020) by method and raw path.

        ``early_refusals`` is for the server's protocol, which may refuse by them what it then does not pass on.
        """
        self.early_refusals = early_refusals
        self._app = app
        self._fast_paths = fast_paths
        self._errors = errors
        self._observer = observer
        self._clock = clock
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; after an exception in the middle of a response the server closes the connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext.begin(scope, self._ids, self._clock.monotonic_ns())
        self._observer.began(context.request_id, context.trace_id, context.parent)
        response = _Response(send, context, self._clock)
        try:
            if REFUSED in scope.get("extensions", {}):
                raise scope["extensions"][REFUSED]  # noqa: TRY301 - as everything that goes wrong further in
            fast_path = self._fast_paths.get((scope["method"], scope["raw_path"]))
            if fast_path is None:
                await self._app(scope, receive, response.send)
            else:
                scope["path_template"] = scope["path"]  # as the router would
                await fast_path(scope, receive, response.send)
        except Exception as error:  # noqa: BLE001 - nothing goes further out
            await self._fail(error, scope, receive, context, response)
        finally:
            self._observer.ended(
                scope["method"],
                scope.get("path_template", ""),
                response.status or status_of(ClientClosedRequestError()),
                self._clock.monotonic_ns() - context.started_ns,
                context.in_flight,
            )

    async def _fail(
        self, error: Exception, scope: Scope, receive: Receive, context: RequestContext, response: _Response
    ) -> None:
        meaning = domain_error(error)
        if isinstance(meaning, InternalError):
            self._observer.failed(error)
        if response.status is None:
            allow = _allowed_methods(error)
            await self._errors.answer(meaning, context, allow=allow)(scope, receive, response.send)


class _Response:
    """Passes a response on; its head gets the headers of every response."""

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
            own = [
                (b"x-request-id", str(self._context.request_id).encode("ascii")),
                (b"x-trace-id", self._context.trace_id.encode("ascii")),
                (b"x-response-time", b"%.3f" % took_ms),
            ]
            message = {**message, "headers": [*message["headers"], *own]}
        await self._send(message)


def _allowed_methods(error: Exception) -> str | None:
    """Return what the router says a 405 must name; it believes that it answers OPTIONS itself, which ours refuse."""
    if not isinstance(error, MethodNotAllowedException):
        return None
    methods = (error.headers or {}).get("allow", "").split(", ")
    return ", ".join(method for method in methods if method != "OPTIONS") or None
