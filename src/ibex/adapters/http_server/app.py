"""The HTTP surface, put together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, cast

from litestar import Litestar, route
from litestar.enums import HttpMethod
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.status_codes import HTTP_200_OK
from litestar.types import ASGIApp  # noqa: TC002 - the framework reads the handlers' annotations at run time

from ibex.adapters.http_server.callers import MODELS_PATH, PROBE_PATH, PROBE_PATH_OF_ORG, CallerRoutes
from ibex.adapters.http_server.client_connection import Limits
from ibex.adapters.http_server.cors import Cors, CorsMiddleware, Preflights
from ibex.adapters.http_server.direct_request import DirectRoute, DirectRoutes
from ibex.adapters.http_server.early_refusal import EarlyRefusals
from ibex.adapters.http_server.endpoints import allowed_methods, not_found_message
from ibex.adapters.http_server.errors import ErrorResponses
from ibex.adapters.http_server.openapi import DOCUMENT_PATH, SCHEMA_PATH, openapi_config, operation_paths
from ibex.adapters.http_server.ops_routes import ops_handlers
from ibex.adapters.http_server.outer_middleware import OuterMiddleware
from ibex.adapters.http_server.proxy_route import ProxyRoute
from ibex.adapters.http_server.readiness import Readiness
from ibex.domain.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from litestar import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.openapi.config import OpenAPIConfig

    from ibex.adapters.http_server.asgi import App, Receive, Scope, Send
    from ibex.adapters.http_server.drain import Drain
    from ibex.adapters.http_server.observer import RequestObserver
    from ibex.adapters.http_server.openapi import DocumentedOperation
    from ibex.adapters.http_server.readiness import ReadinessCheck
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource
    from ibex.domain.proxying.admission import Admission
    from ibex.domain.proxying.capacity import Capacity
    from ibex.domain.proxying.model_list import RoutedModels
    from ibex.domain.proxying.operation import Operation
    from ibex.domain.proxying.proxy_request import ProxyRequest

DEFAULT_LIMITS: Final = Limits()
_MODEL_PREFIX: Final = b"/v1/models/"
_NO_DOTS: Final = rb"(?!\.{1,2}(?:/|$))"
_PATH: Final = re.compile(rb"/|(?:/%b[A-Za-z0-9._~!$&'()*+,=:@-]+)+" % _NO_DOTS)
# Clients escape a model's id as one segment, so a colon or a slash in it may arrive as %3A or %2F.
_MODEL_PATH: Final = re.compile(rb"(?:/%b(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%%[0-9A-Fa-f]{2})+)+" % _NO_DOTS)


def create_app(  # noqa: PLR0913 - one argument a part: the object graph ends here
    *,
    operations: Sequence[DocumentedOperation],
    proxy_request: ProxyRequest,
    admission: Admission,
    models: RoutedModels,
    clock: Clock,
    ids: IdSource,
    render_metrics: Callable[[], tuple[bytes, str]] | None,
    readiness_checks: Sequence[ReadinessCheck],
    drain: Drain,
    observer: RequestObserver,
    capacity: Capacity,
    limits: Limits = DEFAULT_LIMITS,
    error_docs_base: str | None = None,
    base_path: str = "",
    cors_origins: Sequence[str] = (),
) -> App:
    """Return the ASGI application.

    ``render_metrics`` returns a body and its content type; None if another address serves them. Errors
    carry a ``docs_url`` under ``error_docs_base``. All paths begin with ``base_path``, such as ``/gateway``, which may
    be empty. CORS is off if ``cors_origins`` is empty.
    """
    errors = ErrorResponses(clock, error_docs_base)
    routes = [
        _OperationRoute(
            operation.method,
            _paths(operation),
            ProxyRoute(operation, proxy_request, errors, observer, limits, capacity),
        )
        for operation in operations
    ]
    callers = CallerRoutes(admission, models, clock, capacity)
    ops = ops_handlers(Readiness(readiness_checks, drain, clock), errors, render_metrics)
    handlers = [*[_handler(served) for served in routes], *callers.handlers(), *ops]
    methods = allowed_methods(handlers)
    router = _router(handlers, methods, openapi_config(operations, limits, base_path), base_path)
    cors = Cors(cors_origins, set[str]().union(*methods.values())) if cors_origins else None
    if cors is not None:
        router = Preflights(router, cors)
    early = EarlyRefusals(_needing_token(routes), errors, observer, clock, ids, base_path=base_path, cors=cors)
    hot = [served for served in routes if "{" not in served.paths[0]]
    fast_paths = {(s.method, (base_path + s.paths[0]).encode()): (s.paths[0], s.app) for s in hot}
    app = OuterMiddleware(router, errors, observer, clock, ids, fast_paths=fast_paths, early_refusals=early)
    app.direct_routes = DirectRoutes(_direct(hot, base_path, limits), app.serve_directly, clock)
    return app if cors is None else CorsMiddleware(app, cors)


def _direct(routes: Iterable[_OperationRoute], base_path: str, limits: Limits) -> list[DirectRoute]:
    """Return the routes whose requests can be direct (ADR 0051)."""
    return [
        DirectRoute(base_path + served.paths[0], served.paths[0], served.app.serve, limits)
        for served in routes
        if served.method == "POST"
    ]


def _needing_token(routes: Iterable[_OperationRoute]) -> dict[bytes, list[str]]:
    """Return the paths of the routes that need a token, by method."""
    paths = {b"GET": [PROBE_PATH, PROBE_PATH_OF_ORG, MODELS_PATH]}
    for served in routes:
        paths.setdefault(served.method.encode(), []).extend(served.paths)
    return paths


class _OperationRoute(NamedTuple):
    """The route of an operation. Its paths are written as the router writes them."""

    method: str
    paths: tuple[str, ...]
    app: ProxyRoute


def _paths(operation: Operation) -> tuple[str, ...]:
    return tuple(path.replace("id}", "id:str}") for path in operation_paths(operation))


def create_ops_app(
    *,
    clock: Clock,
    ids: IdSource,
    render_metrics: Callable[[], tuple[bytes, str]],
    readiness_checks: Sequence[ReadinessCheck],
    drain: Drain,
    observer: RequestObserver,
) -> App:
    """Return an ASGI application with ``/health``, ``/ready`` and ``/metrics`` alone, for an address of their own."""
    errors = ErrorResponses(clock, None)
    ops = ops_handlers(Readiness(readiness_checks, drain, clock), errors, render_metrics)
    return OuterMiddleware(_router(ops, allowed_methods(ops)), errors, observer, clock, ids)


def _router(
    handlers: Sequence[HTTPRouteHandler],
    methods: Mapping[str, set[str]],
    openapi: OpenAPIConfig | None = None,
    base_path: str = "",
) -> App:
    """Return the router. Its routes have no base path."""
    not_found = not_found_message(methods, base_path)
    base, base_bytes = len(base_path), base_path.encode("ascii")

    def lost(_request: Request[Any, Any, Any], _error: NotFoundException) -> NoReturn:
        raise NotFoundError(not_found)

    router = Litestar(
        route_handlers=[
            # First: the framework adds an OPTIONS handler of its own to each path that has none.
            *(_no_options(path, allow=", ".join(sorted(allowed))) for path, allowed in methods.items()),
            *handlers,
        ],
        exception_handlers={NotFoundException: lost, Exception: _hand_over},
        openapi_config=openapi,
        logging_config=None,
    )

    async def literally(scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 for a path that is not spelled exactly like its route. Litestar would normalize it."""
        if scope["type"] != "http":
            await cast("App", router)(scope, receive, send)
            return
        is_below_base = scope["raw_path"].startswith(base_bytes)
        scope["raw_path"], scope["path"] = scope["raw_path"][base:], scope["path"][base:]
        if not is_below_base or not _is_served(scope["raw_path"], scope["path"]):
            raise NotFoundError(not_found)
        if scope["method"] == "OPTIONS" and openapi is not None and scope["path"] in (SCHEMA_PATH, DOCUMENT_PATH):
            raise MethodNotAllowedException(headers={"allow": "GET, HEAD"})  # the framework has its own handler there
        if scope["method"] == "HEAD":
            await _as_get(cast("App", router), scope, receive, send)
        else:
            await cast("App", router)(scope, receive, send)

    return literally


async def _as_get(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve HEAD like GET (RFC 9110, 9.3.2). The server leaves the body out."""
    as_get = {**scope, "method": "GET"}
    try:
        await app(as_get, receive, send)
    finally:
        scope["path_template"] = as_get.get("path_template", "")


def _is_served(raw_path: bytes, path: str) -> bool:
    """Return whether a path may be a route. Litestar would answer an unknown path below the schema with a page."""
    if path.startswith(f"{SCHEMA_PATH}/") and path != DOCUMENT_PATH:
        return False
    return _is_literal(raw_path, path)


def _is_literal(raw_path: bytes, path: str) -> bool:
    """Return whether a path is in its one accepted form: escapes only in a model's id, no empty segments, no dots."""
    if raw_path.startswith(_MODEL_PREFIX):
        return _MODEL_PATH.fullmatch(raw_path) is not None and "//" not in path and path.isprintable()
    return _PATH.fullmatch(raw_path) is not None


# A handler returns a raw ASGI application: the framework's own ``asgi`` handlers answer 500 on every path that has a
# parameter and take any method, and this way costs three microseconds more than they do.


def _handler(served: _OperationRoute) -> HTTPRouteHandler:
    # A DELETE has a response with a body, which the framework does not expect.
    @route(
        list(served.paths),
        http_method=[HttpMethod(served.method)],
        status_code=HTTP_200_OK,
        include_in_schema=False,
    )
    async def handler() -> ASGIApp:
        return cast("ASGIApp", served.app)

    return handler


def _no_options(path: str, *, allow: str) -> HTTPRouteHandler:
    @route(path, http_method=[HttpMethod.OPTIONS], include_in_schema=False)
    async def handler() -> None:
        raise MethodNotAllowedException(headers={"allow": allow})

    return handler


def _hand_over(_request: Request[Any, Any, Any], error: Exception) -> NoReturn:
    """Leave the response to the outer middleware, which makes all envelopes."""
    if isinstance(error, MethodNotAllowedException) and error.headers:
        allow = error.headers.get("allow", "").split(", ")
        if "GET" in allow and "HEAD" not in allow:
            raise MethodNotAllowedException(headers={"allow": ", ".join([*allow, "HEAD"])}) from None
    raise error
