"""Cross-origin resource sharing (CORS, Fetch Standard): lets web pages of configured origins call IBEX.

There is no credentials mode, because IBEX accepts no cookies. Tokens in Authorization need none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ibex.adapters.http_server.asgi import BODY, START
from ibex.adapters.http_server.context import context_of
from ibex.adapters.http_server.openapi import EVERY_RESPONSE, EXCHANGE_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ibex.adapters.http_server.asgi import App, Headers, Message, Receive, Scope, Send
    from ibex.adapters.http_server.outer_middleware import OuterMiddleware

ANY_ORIGIN: Final = "*"
_MAX_AGE_S: Final = 7_200
"""How long a browser may cache a preflight, in seconds. This is Chrome's maximum."""
_OTHER_HEADERS: Final = (
    "X-IBEX-Error-Source",
    "Retry-After",
    "x-should-retry",
    "WWW-Authenticate",
    "Allow",
)
EXPOSED: Final = (*EVERY_RESPONSE, *EXCHANGE_HEADERS, *_OTHER_HEADERS)
"""The response headers that a page may read in addition to the CORS-safelisted ones, such as Content-Type."""
_VARY: Final = (b"vary", b"Origin")
_FIELD_NAMES: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")


class Cors:
    """The CORS policy: the headers of responses and of preflights, by the Origin header of the request."""

    def __init__(self, origins: Sequence[str], methods: Iterable[str]) -> None:
        """Set the origins, which can be ``ANY_ORIGIN`` alone, and the methods of all routes."""
        exposed = (b"access-control-expose-headers", ", ".join(EXPOSED).encode("ascii"))
        self._by_origin: dict[bytes, Headers] = {
            origin.encode("ascii"): [(b"access-control-allow-origin", origin.encode("ascii")), _VARY, exposed]
            for origin in origins
        }
        self._for_any = self._by_origin.get(ANY_ORIGIN.encode("ascii"))
        self._methods = ", ".join(sorted(methods)).encode("ascii")

    def headers(self, origin: bytes | None) -> Headers:
        """Return the headers to add to a response: none without an origin, only Vary if the origin is not allowed."""
        if origin is None:
            return []
        return self._for_any or self._by_origin.get(origin) or [_VARY]

    def preflight_headers(self, fields: Mapping[bytes, bytes]) -> Headers | None:
        """Return the headers of the response to a preflight, in addition to those of ``headers``.

        Return None if the request is not a preflight, or its origin is not allowed. All request headers are allowed:
        clients add many, and IBEX ignores unknown ones.
        """
        origin = fields.get(b"origin")
        if b"access-control-request-method" not in fields or len(self.headers(origin)) <= 1:
            return None
        added = [
            (b"access-control-allow-methods", self._methods),
            (b"access-control-max-age", b"%d" % _MAX_AGE_S),
        ]
        wanted = fields.get(b"access-control-request-headers")
        if wanted is not None and _FIELD_NAMES.fullmatch(wanted):
            added.append((b"access-control-allow-headers", wanted))
        return added


class CorsMiddleware:
    """An ASGI middleware that adds CORS headers to the responses of an application."""

    def __init__(self, app: OuterMiddleware, cors: Cors) -> None:
        """Set the application. Its early refusals add the headers themselves; direct requests have no Origin header."""
        self.early_refusals = app.early_refusals
        self.direct_routes = app.direct_routes
        self._app = app
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Two Origin headers count as one with both values, which no policy allows."""
        origins = [value for name, value in scope.get("headers", ()) if name == b"origin"]
        if not origins:
            await self._app(scope, receive, send)
            return
        added = self._cors.headers(b", ".join(origins))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == START:
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Preflights:
    """An ASGI middleware that answers preflights on every path and passes other requests to an application.

    A page cannot read the response to a failed preflight. If its path is wrong, the actual request gets the 404.
    """

    def __init__(self, app: App, cors: Cors) -> None:
        self._app = app
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight of an allowed origin with 204."""
        is_options = scope["type"] == "http" and scope["method"] == "OPTIONS"
        headers = self._cors.preflight_headers(context_of(scope).fields) if is_options else None
        if headers is None:
            await self._app(scope, receive, send)
            return
        await send({"type": START, "status": 204, "headers": headers})
        await send({"type": BODY, "body": b"", "more_body": False})
