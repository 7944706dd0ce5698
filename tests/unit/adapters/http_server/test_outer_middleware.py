"""Every response has its ids, every exception its envelope, every request is counted once."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from harness.http_scene import CHAT, AsgiCall, HttpScene, RecordingRequestObserver, call, scope_of
from harness.memory.clock import ManualClock
from harness.memory.ids import SequentialIds
from ibex.adapters.http_server.errors import ErrorAnswers
from ibex.adapters.http_server.outer_middleware import OuterMiddleware

if TYPE_CHECKING:
    from ibex.adapters.http_server.asgi import App, Receive, Scope, Send

REQUEST_ID = "0190163d-8694-739b-aea5-966c26f8ad91"


def edge_of(app: App, observer: RecordingRequestObserver | None = None) -> OuterMiddleware:
    """Return an edge around an application."""
    clock = ManualClock()
    return OuterMiddleware(
        app, ErrorAnswers(clock, None), observer or RecordingRequestObserver(), clock, SequentialIds()
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
        ("OPTIONS", "/nothing", 404, ""),
    ],
)
async def test_every_response_has_its_headers_and_every_error_the_envelope(
    method: str, path: str, status: int, route: str
) -> None:
    """The ids are those that were sent, the envelope's is the header's, and the request is counted by its template."""
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
        ("POST", "/ready", "GET, HEAD"),
    ],
)
async def test_a_405_names_what_is_allowed(method: str, path: str, allow: str) -> None:
    """As RFC 9110 requires; OPTIONS is not among it."""
    assert (await HttpScene().get(path, method)).headers["allow"] == allow


async def test_ids_are_made_where_none_came() -> None:
    """A UUIDv7 for the request, 32 hex digits for the trace; others for the next request."""
    app = HttpScene().app()

    first, second = [await call(app, "GET", "/health") for _ in range(2)]

    assert UUID(first.headers["x-request-id"]).version == 7
    assert len(bytes.fromhex(first.headers["x-trace-id"])) == 16
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["x-trace-id"] != second.headers["x-trace-id"]


async def test_a_host_that_is_none_is_refused() -> None:
    """The framework's own refusals are envelopes as well."""
    scope = scope_of("GET", "/health", []) | {"headers": [(b"host", b"a b\x00")]}
    exchange = AsgiCall()

    await HttpScene().app()(scope, exchange.receive, exchange.send)

    assert (exchange.response().status, exchange.response().error["code"]) == (400, "VALIDATION_ERROR")


async def test_a_bug_is_a_500_that_says_nothing() -> None:
    """The observer hears of the exception, the client does not."""
    observer = RecordingRequestObserver()
    bug = RuntimeError("canary")

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise bug

    response = await call(edge_of(app, observer), "GET", "/")

    assert (response.status, response.error["code"]) == (500, "INTERNAL_ERROR")
    assert b"canary" not in response.body
    assert observer.failures == [bug]
    assert [r.status for r in observer.requests] == [500]


async def test_a_bug_within_a_response_leaves_it_unfinished() -> None:
    """Nothing is added to what was begun: the server then closes the connection, and the client sees that."""
    observer = RecordingRequestObserver()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    exchange = AsgiCall()
    await edge_of(app, observer)(scope_of("GET", "/", []), exchange.receive, exchange.send)

    assert [message["type"] for message in exchange.sent] == ["http.response.start"]
    assert len(observer.failures) == 1


async def test_a_request_that_nobody_was_answered_counts_as_left() -> None:
    """499, as for every client that goes."""
    observer = RecordingRequestObserver()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    exchange = AsgiCall()
    await edge_of(app, observer)(scope_of("GET", "/", []), exchange.receive, exchange.send)

    assert [r.status for r in observer.requests] == [499]


async def test_what_is_not_http_goes_through() -> None:
    """A server's lifespan events are the framework's."""
    seen = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    exchange = AsgiCall()
    await edge_of(app)({"type": "lifespan"}, exchange.receive, exchange.send)

    assert seen == ["lifespan"]
