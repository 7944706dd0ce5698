"""The HTTP surface, put together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from litestar import Litestar, get, post, route
from litestar.enums import HttpMethod
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.types import ASGIApp  # noqa: TC002 - the framework reads the handlers' annotations at run time

from ibex.adapters.http_server.callers import CallerRoutes
from ibex.adapters.http_server.client_connection import Limits
from ibex.adapters.http_server.early_refusal import EarlyRefusals
from ibex.adapters.http_server.errors import ErrorAnswers
from ibex.adapters.http_server.openapi import openapi_document
from ibex.adapters.http_server.operations import OperationRoutes
from ibex.adapters.http_server.outer_middleware import OuterMiddleware
from ibex.adapters.http_server.proxy_route import ProxyRoute
from ibex.adapters.http_server.readiness import Readiness
from ibex.domain.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litestar import Request
    from litestar.handlers import HTTPRouteHandler

    from ibex.adapters.http_server.asgi import App, Receive, Scope, Send
    from ibex.adapters.http_server.drain import Drain
    from ibex.adapters.http_server.observer import RequestObserver
    from ibex.adapters.http_server.readiness import ReadinessCheck
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource
    from ibex.domain.proxying.admission import Admission
    from ibex.domain.proxying.capacity import Capacity
    from ibex.domain.proxying.provider import ProviderRegistry
    from ibex.domain.proxying.proxy_request import ProxyRequest

CHAT_PATHS: Final = ("/v1/chat/completions", "/v1/orgs/{org_id:str}/chat/completions")
PROBE_PATHS: Final = ("/v1/internal/auth-probe", "/v1/orgs/{org_id:str}/auth-probe")
_NEED_TOKEN: Final = {b"POST": CHAT_PATHS, b"GET": (*PROBE_PATHS, "/v1/models")}
"""The routes that are refused without a token by the head of a request alone (ADR 0047)."""
DEFAULT_LIMITS: Final = Limits()
# Who opens the address in a browser, or leaves the /v1 out of an SDK's base URL, comes here first. SDKs show no more.
_WAY: Final = (
    "Not found. The API is under /v1, as in POST /v1/chat/completions; GET /schema describes all of it."
    " Paths are not normalized: send no empty segments, no slash at the end and no escapes."
)
_MODEL_PREFIX: Final = b"/v1/models/"
_NO_DOTS: Final = rb"(?!\.{1,2}(?:/|$))"
_PATH: Final = re.compile(rb"/|(?:/%b[A-Za-z0-9._~!$&'()*+,=:@-]+)+" % _NO_DOTS)
# Clients escape a model's id as one segment, so a colon or a slash in it may arrive as %3A or %2F.
_MODEL_PATH: Final = re.compile(rb"(?:/%b(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%%[0-9A-Fa-f]{2})+)+" % _NO_DOTS)


def create_app(  # noqa: PLR0913 - one argument a part: the object graph ends here
    *,
    proxy_request: ProxyRequest,
    admission: Admission,
    providers: ProviderRegistry,
    clock: Clock,
    ids: IdSource,
    render_metrics: Callable[[], tuple[bytes, str]],
    readiness_checks: Sequence[ReadinessCheck],
    drain: Drain,
    observer: RequestObserver,
    capacity: Capacity,
    limits: Limits = DEFAULT_LIMITS,
    error_docs_base: str | None = None,
) -> App:
    """Return the ASGI application.

    ``render_metrics`` returns a body and its content type. Errors carry a ``docs_url`` under ``error_docs_base``.
    """
    errors = ErrorAnswers(clock, error_docs_base)
    chat = ProxyRoute(proxy_request, errors, observer, limits, capacity)
    callers = CallerRoutes(admission, providers, clock, capacity)
    readiness = Readiness(readiness_checks, drain, clock)
    operations = OperationRoutes(readiness, errors, render_metrics, openapi_document(limits))
    reads = {
        PROBE_PATHS: callers.probe,
        ("/v1/models",): callers.models,
        ("/v1/models/{model_id:path}",): callers.model,
        ("/health",): operations.health,
        ("/ready",): operations.ready,
        ("/metrics",): operations.metrics,
        ("/schema",): operations.schema,
    }
    router = _router(
        [
            _no_options(CHAT_PATHS, allow="POST"),  # first: to a path that has none the framework adds its own
            *(_no_options(paths, allow="GET") for paths in reads),
            _post(CHAT_PATHS, chat),
            *(_get(paths, app) for paths, app in reads.items()),
        ],
        _WAY,
    )
    early = EarlyRefusals(_NEED_TOKEN, errors, observer, clock, ids)
    fast_paths = {("POST", CHAT_PATHS[0].encode()): chat}
    return OuterMiddleware(router, errors, observer, clock, ids, fast_paths=fast_paths, early_refusals=early)


def create_ops_app(
    *,
    clock: Clock,
    ids: IdSource,
    render_metrics: Callable[[], tuple[bytes, str]],
    readiness_checks: Sequence[ReadinessCheck],
    drain: Drain,
    observer: RequestObserver,
) -> App:
    """Return an ASGI application with ``/health``, ``/ready`` and ``/metrics`` alone: for what speaks gRPC."""
    errors = ErrorAnswers(clock, None)
    operations = OperationRoutes(Readiness(readiness_checks, drain, clock), errors, render_metrics, {})
    reads = {("/health",): operations.health, ("/ready",): operations.ready, ("/metrics",): operations.metrics}
    router = _router(
        [
            *(_no_options(paths, allow="GET") for paths in reads),
            *(_get(paths, app) for paths, app in reads.items()),
        ]
    )
    return OuterMiddleware(router, errors, observer, clock, ids)


def _router(handlers: Sequence[HTTPRouteHandler], way: str | None = None) -> App:
    """Return the router. ``way`` is the message for a path without a handler."""

    def lost(_request: Request[Any, Any, Any], _error: NotFoundException) -> NoReturn:
        raise NotFoundError(way)

    router = Litestar(
        route_handlers=list(handlers),
        exception_handlers={NotFoundException: lost, Exception: _hand_over},
        openapi_config=None,
        logging_config=None,
    )

    async def literally(scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 for a path that is not spelled exactly like its route. Litestar would normalize it."""
        if scope["type"] == "http" and not _is_literal(scope["raw_path"], scope["path"]):
            raise NotFoundError(way)
        await cast("App", router)(scope, receive, send)

    return literally


def _is_literal(raw_path: bytes, path: str) -> bool:
    """Return whether a path is in its one accepted form: escapes only in a model's id, no empty segments, no dots."""
    if raw_path.startswith(_MODEL_PREFIX):
        return _MODEL_PATH.fullmatch(raw_path) is not None and "//" not in path and path.isprintable()
    return _PATH.fullmatch(raw_path) is not None


# The handlers return raw ASGI applications: the framework's own ``asgi`` handlers answer 500 on every path that has a
# parameter and take any method, and this way costs three microseconds more than they do.


def _post(paths: Sequence[str], app: App) -> HTTPRouteHandler:
    @post(list(paths))
    async def handler() -> ASGIApp:
        return cast("ASGIApp", app)

    return handler


def _get(paths: Sequence[str], app: App) -> HTTPRouteHandler:
    @get(list(paths))
    async def handler() -> ASGIApp:
        return cast("ASGIApp", app)

    return handler


def _no_options(paths: Sequence[str], *, allow: str) -> HTTPRouteHandler:
    @route(list(paths), http_method=[HttpMethod.OPTIONS])
    async def handler() -> None:
        raise MethodNotAllowedException(headers={"allow": allow})

    return handler


def _hand_over(_request: Request[Any, Any, Any], error: Exception) -> NoReturn:
    """Let the edge answer: nothing but it makes envelopes."""
    raise error
