"""Tests of the list of endpoints in a 404."""

from __future__ import annotations

from litestar import delete, get

from ibex.adapters.http_server.endpoints import allowed_methods, not_found_message


async def _handler() -> None: ...


def test_the_methods_of_each_path() -> None:
    """HEAD is served on every GET route. Two handlers can share a path."""
    handlers = [
        get("/v1/things/{thing_id:str}")(_handler),
        delete("/v1/things/{thing_id:str}", status_code=200)(_handler),
    ]

    assert allowed_methods([*handlers, get("/health")(_handler)]) == {
        "/v1/things/{thing_id:str}": {"GET", "HEAD", "DELETE"},
        "/health": {"GET", "HEAD"},
    }


def test_the_message_lists_the_api_by_method() -> None:
    """It omits parameter types, routes with an organization, and internal and operations routes."""
    methods = {
        "/v1/turns": {"POST"},
        "/v1/orgs/{org_id:str}/turns": {"POST"},
        "/v1/turns/{turn_id:path}": {"GET", "HEAD", "DELETE"},
        "/v1/internal/probe": {"GET", "HEAD"},
        "/health": {"GET", "HEAD"},
    }

    assert not_found_message(methods, "/base").startswith(
        "Not found. The endpoints are POST /base/v1/turns; DELETE /base/v1/turns/{turn_id}; GET"
        " /base/v1/turns/{turn_id}. GET /base/schema describes them. Paths are not normalized"
    )


def test_without_an_api_the_message_lists_all() -> None:
    """Auth's operations port has no document either."""
    assert not_found_message({"/health": {"GET", "HEAD"}, "/ready": {"GET", "HEAD"}}).startswith(
        "Not found. The endpoints are GET /health, /ready. Paths are not normalized"
    )
