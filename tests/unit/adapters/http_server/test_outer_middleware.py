"""Tests of the outer middleware: ids, envelopes, and one report of each request."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.http_scene import CHAT, AsgiCall, HttpScene, RecordingRequestObserver, call, scope_of
from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from ibex.adapters.http_server.errors import ErrorResponses
from ibex.adapters.http_server.outer_middleware import OuterMiddleware

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import App, Receive, Scope, Send

REQUEST_ID = "0190163d-8694-739b-aea5-966c26f8ad91"


def middleware_of(app: App, observer: RecordingRequestObserver | None = None) -> OuterMiddleware:
    """Return a middleware around an application."""
    clock = ManualClock()
    return OuterMiddleware(
        app, ErrorResponses(clock, None), observer or RecordingRequestObserver(), clock, SequentialIds()
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "route"),
    [
        ("GET", "/health", 200, "/health"),
        ("GET", "/ready", 200, "/ready"),
        ("GET", "/metrics", 200, "/metrics"),
        ("GET", "/schema", 200, "/schema"),
        ("GET", "/v1/models", 200, "/v1/models"),
        ("GET", "/v1/models/gpt-4o", 200, "/v1/models/{model_id}"),
        ("GET", "/v1/models/nobody-s", 404, "/v1/models/{model_id}"),
        ("GET", "/v1/internal/auth-probe", 200, "/v1/internal/auth-probe"),
        ("GET", "/v1/orgs/x/auth-probe", 403, "/v1/orgs/{org_id}/auth-probe"),
        ("POST", "/v1/orgs/x/chat/completions", 403, "/v1/orgs/{org_id}/chat/completions"),
        ("POST", CHAT, 400, CHAT),
        ("GET", "/nothing", 404, ""),
        ("GET", "/", 404, ""),
        ("GET", "/schema/nothing", 404, ""),
        ("GET", CHAT, 405, ""),
        ("HEAD", "/health", 200, "/health"),
        ("HEAD", "/nothing", 404, ""),
        ("DELETE", "/v1/orgs/x/auth-probe", 405, ""),
        ("TRACE", CHAT, 405, ""),
        ("OPTIONS", CHAT, 405, CHAT),
        ("OPTIONS", "/health", 405, "/health"),
        ("OPTIONS", "/schema", 405, ""),
        ("OPTIONS", "/schema/openapi.json", 405, ""),
        ("OPTIONS", "/nothing", 404, ""),
    ],
)
async def test_every_response_has_its_headers_and_every_error_the_envelope(
    method: str, path: str, status: int, route: str
) -> None:
    """The ids are those of the request, the envelope has the same id, and the request counts by its template."""
    scene = HttpScene()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    response = await scene.get(path, method, headers={"x-request-id": REQUEST_ID, "traceparent": traceparent})

    assert response.status == status
    assert response.headers["x-request-id"] == REQUEST_ID
    assert response.headers["x-trace-id"] == "0af7651916cd43dd8448eb211c80319c"
    assert float(response.headers["x-response-time"]) >= 0
    if status >= 400:
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-ibex-error-source"] == "proxy"
        assert response.error["request_id"] == REQUEST_ID
    (ended,) = scene.observer.requests
    assert (ended.method, ended.route, ended.status) == (method, route, status)
    assert scene.observer.begun == [UUID(REQUEST_ID)]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("HEAD", CHAT, "POST"),
        ("OPTIONS", "/health", "GET, HEAD"),
        ("OPTIONS", "/schema", "GET, HEAD"),
        ("POST", "/ready", "GET, HEAD"),
    ],
)
async def test_a_405_lists_the_allowed_methods(method: str, path: str, allow: str) -> None:
    """RFC 9110 requires the Allow header. It does not list OPTIONS."""
    assert (await HttpScene().get(path, method)).headers["allow"] == allow


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/responses"), ("POST", CHAT), ("GET", "/health"), ("GET", "/nothing"), ("PUT", "/")],
)
@pytest.mark.parametrize("upgrade", ["websocket", "h2c, WebSocket"])
async def test_an_upgrade_to_websocket_is_refused(method: str, path: str, upgrade: str) -> None:
    """IBEX refuses it on every path and before authentication, so that the client falls back at once."""
    scene = HttpScene()

    response = await scene.get(path, method, headers={"upgrade": upgrade, "authorization": None})

    assert (response.status, response.error["code"]) == (426, "UPGRADE_REFUSED")
    assert response.error["type"] == "invalid_request_error"
    assert response.headers["upgrade"] == "HTTP/1.1"
    assert [(ended.route, ended.status) for ended in scene.observer.requests] == [("", 426)]
    assert scene.chat.provider.asked == []


async def test_other_upgrades_are_ignored() -> None:
    """The request is served in HTTP/1.1. In HTTP/1.0 every upgrade is ignored (RFC 9110, 7.8)."""
    assert (await HttpScene().get("/health", headers={"upgrade": "h2c"})).status == 200
    scope = scope_of("GET", "/health", [(b"upgrade", b"websocket")]) | {"http_version": "1.0"}
    exchange = AsgiCall()
    await HttpScene().app()(scope, exchange.receive, exchange.send)
    assert exchange.response().status == 200


async def test_missing_ids_are_created() -> None:
    """The request id is a UUIDv7, and the trace id has 32 hex digits. The next request gets other ids."""
    app = HttpScene().app()

    first, second = [await call(app, "GET", "/health") for _ in range(2)]

    assert UUID(first.headers["x-request-id"]).version == 7
    assert len(bytes.fromhex(first.headers["x-trace-id"])) == 16
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-trace-id"] != second.headers["x-trace-id"]


async def test_an_invalid_host_is_refused() -> None:
    """Litestar's own refusals get an envelope too."""
    scope = scope_of("GET", "/health", []) | {"headers": [(b"host", b"a b\x00")]}
    exchange = AsgiCall()

    await HttpScene().app()(scope, exchange.receive, exchange.send)

    assert (exchange.response().status, exchange.response().error["code"]) == (400, "VALIDATION_ERROR")


async def test_a_bug_is_a_500_without_details() -> None:
    """The observer gets the exception, the client does not."""
    observer = RecordingRequestObserver()
    bug = RuntimeError("canary")

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise bug

    response = await call(middleware_of(app, observer), "GET", "/")

    assert (response.status, response.error["code"]) == (500, "INTERNAL_ERROR")
    assert b"canary" not in response.body
    assert observer.failures == [bug]
    assert [r.status for r in observer.requests] == [500]


async def test_a_bug_within_a_response_leaves_it_incomplete() -> None:
    """The server then closes the connection, which the client detects."""
    observer = RecordingRequestObserver()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    exchange = AsgiCall()
    await middleware_of(app, observer)(scope_of("GET", "/", []), exchange.receive, exchange.send)

    assert [message["type"] for message in exchange.sent] == ["http.response.start"]
    assert len(observer.failures) == 1


async def test_a_request_without_a_response_counts_as_a_disconnect() -> None:
    """Its status is 499."""
    observer = RecordingRequestObserver()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    exchange = AsgiCall()
    await middleware_of(app, observer)(scope_of("GET", "/", []), exchange.receive, exchange.send)

    assert [r.status for r in observer.requests] == [499]


async def test_other_scopes_are_passed_on() -> None:
    """Litestar handles the server's lifespan events."""
    seen = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    exchange = AsgiCall()
    await middleware_of(app)({"type": "lifespan"}, exchange.receive, exchange.send)

    assert seen == ["lifespan"]
