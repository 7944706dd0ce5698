"""The endpoints that are served, and the message of a 404 that lists them. Both derive from the routes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from litestar.handlers import HTTPRouteHandler

_TYPE: Final = re.compile(r":\w+(?=\})")
_NOT_LISTED: Final = ("/v1/orgs/", "/v1/internal/")
_API: Final = "/v1/"
# Users see this message in a browser, or in an SDK whose base URL lacks /v1. SDKs show nothing else.
_NOT_FOUND: Final = (
    "Not found. The endpoints are {endpoints}.{schema}"
    " Paths are not normalized: do not send empty segments, a trailing slash or percent-encoding."
)
_SCHEMA: Final = " GET {base_path}/schema describes them."


def allowed_methods(handlers: Iterable[HTTPRouteHandler]) -> dict[str, set[str]]:
    """Return the methods of each path, in the router's syntax for paths. HEAD is served on every GET route."""
    found: dict[str, set[str]] = {}
    for handler in handlers:
        methods = {str(method) for method in handler.http_methods}
        for path in handler.paths:
            found.setdefault(path, set()).update(methods | ({"HEAD"} if "GET" in methods else set()))
    return found


def not_found_message(methods_by_path: Mapping[str, Iterable[str]], base_path: str = "") -> str:
    """Return the message for an unknown path. It lists the API endpoints, or all endpoints without an API.

    The message omits routes with an organization and internal routes, to stay short.
    """
    of_api = {
        path: methods
        for path, methods in methods_by_path.items()
        if path.startswith(_API) and not path.startswith(_NOT_LISTED)
    }
    paths_by_method: dict[str, list[str]] = {}
    for path, methods in (of_api or methods_by_path).items():
        for method in sorted(set(methods) - {"HEAD"}):
            paths_by_method.setdefault(method, []).append(base_path + _TYPE.sub("", path))
    listed = "; ".join(f"{method} {', '.join(paths)}" for method, paths in paths_by_method.items())
    return _NOT_FOUND.format(endpoints=listed, schema=_SCHEMA.format(base_path=base_path) if of_api else "")
