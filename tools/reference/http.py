"""The page about the HTTP API. Routes, permissions and response headers come from the code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from tools.reference.markdown import code, table

from ibex.adapters.http_server.callers import CallerRoutes
from ibex.adapters.http_server.openapi import EVERY_RESPONSE, EXCHANGE_HEADERS
from ibex.adapters.http_server.ops_routes import ops_handlers
from ibex.adapters.openai_api.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar.handlers import HTTPRouteHandler

_INTRODUCTION: Final = """\
# HTTP API

The paths are OpenAI's: an OpenAI SDK needs only another base URL and token. Requests and responses are OpenAI's too;
IBEX forwards fields that it does not know. `GET /schema` shows the API as a page while IBEX runs, and
`GET /schema/openapi.json` is the OpenAPI document. [Errors](errors.md) lists the error codes. With `IBEX_BASE_PATH`,
each path begins with it. With `IBEX_OPS_LISTEN`, `/metrics` is only on that address.

Paths are not normalized: empty segments, a trailing slash and percent-encoding get 404, except in the name of a model.

This page is generated from the routes.

## Operations

IBEX sends these requests to the provider. Each needs an agent, and a token with the permission in the table.
"""
_OPERATIONS_NOTE: Final = """
*Directive*: IBEX injects the agent's directive. *Turn*: the request is a turn of a session and leaves a checkpoint.

Every path also exists with the organization in it: `/v1/orgs/{org_id}/chat/completions`. A token of another
organization gets 403 there.

## Other routes
"""
_REQUEST_HEADERS: Final = (
    ("Authorization", "`Bearer <token>`, a personal access token. Required, except for the routes without a token."),
    ("X-IBEX-Agent-ID", "The id of the agent. Required unless the token is bound to one."),
    (
        "X-IBEX-Session-ID",
        (
            "The session of this turn: 1 to 128 of the characters `A-Z a-z 0-9 . _ : -`. Without it, the session of "
            "the response in `previous_response_id`; without both, a new session."
        ),
    ),
    ("X-IBEX-Session-End", "`true` completes the session with this turn."),
    ("X-Request-ID", "A UUID that becomes the id of the request. Without one, IBEX makes one."),
    (
        "traceparent",
        (
            "The W3C trace context. IBEX keeps the trace id, and sends a `traceparent` of its own to the provider. No "
            "other header of a client changes the headers that the provider gets."
        ),
    ),
    ("Content-Type", "`application/json`, for each request with a body. `Content-Encoding` is refused."),
)
_ERROR_HEADERS: Final = (
    ("X-IBEX-Error-Source", "`provider` if the provider failed or refused the request, else `proxy`."),
    ("Retry-After", "Seconds to wait before a retry."),
    ("X-Should-Retry", "`false`: OpenAI's SDKs do not retry. IBEX has retried, or no retry can succeed."),
    ("WWW-Authenticate", "`Bearer`, with 401."),
    ("Allow", "The methods of the route, with 405."),
)


def page() -> str:
    """Return the text of the page."""
    lines = [_INTRODUCTION, *_operations(), _OPERATIONS_NOTE, *_other_routes()]
    lines += ["", "## Request headers", "", *_headers(_REQUEST_HEADERS)]
    lines += ["", "## Response headers", "", "Every response has:", "", *_headers(_described(EVERY_RESPONSE))]
    lines += ["", "A response to a request with a valid token can have these headers:", ""]
    lines += [*_headers(_described(EXCHANGE_HEADERS)), "", "An error may have:", "", *_headers(_ERROR_HEADERS)]
    return "\n".join([*lines, ""])


def routes() -> list[tuple[str, str, str]]:
    """Return method, path and summary of the routes that are not operations."""
    nothing = cast("Any", None)  # the handlers are described, not called
    callers = CallerRoutes(nothing, nothing, nothing, nothing).handlers()
    handlers: Iterable[HTTPRouteHandler] = [*callers, *ops_handlers(nothing, nothing, lambda: (b"", ""))]
    return [
        (method, path.replace(":str", "").replace(":path", ""), str(handler.summary))
        for handler in handlers
        for path in sorted(handler.paths)
        for method in sorted(str(method) for method in handler.http_methods)
    ]


def _operations() -> list[str]:
    rows = [
        (
            code(f"{one.method} /v1/{one.path}"),
            one.summary,
            str(one.permission.name).replace("|", ", "),
            "yes" if one.takes_directive else "",
            "yes" if one.makes_turn else "",
        )
        for one in OPERATIONS
    ]
    return table(("route", "what it does", "permission", "directive", "turn"), rows)


def _other_routes() -> list[str]:
    rows = [
        (code(f"{method} {path}"), summary, "token" if path.startswith("/v1/") else "none")
        for method, path, summary in routes()
    ]
    return table(("route", "what it does", "needs"), rows)


def _described(headers: Any) -> list[tuple[str, str]]:
    return [(name, str(header["description"])) for name, header in headers.items()]


def _headers(rows: Iterable[tuple[str, str]]) -> list[str]:
    return table(("header", "meaning"), [(code(name), meaning) for name, meaning in rows])
