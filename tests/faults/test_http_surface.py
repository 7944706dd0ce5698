"""Requests of browsers, WebSocket clients and health checks, and a path prefix, through the whole proxy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from harness.loopback import CHAT, Loopback
from harness.openai import ScriptedOpenAI
from harness.openai_wire import completion, completion_body, text_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.raw_http import Seen

pytestmark = pytest.mark.integration

PAGE = "https://app.test"
KEEP_ALIVE_S = 0.2
SETTINGS = {"IBEX_CORS_ORIGINS": f"{PAGE}, http://localhost:3000"}
UPGRADE = ("connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: a2V5")


def request(method: str, path: str, *lines: str) -> bytes:
    """Return a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: ibex.test", *lines, "", ""]).encode()


def models(proxy: Loopback) -> bytes:
    """Return a request that needs a token."""
    return request("GET", "/v1/models", f"authorization: Bearer {proxy.token}")


@pytest.mark.parametrize("path", ["/v1/responses", CHAT, "/health", "/realtime"])
@pytest.mark.parametrize("has_token", [True, False])
def test_an_upgrade_to_websocket_gets_426(proxy: Loopback, path: str, *, has_token: bool) -> None:
    """The response comes at once, with or without a token. The connection serves the next request."""
    token = (f"authorization: Bearer {proxy.token}",) if has_token else ()
    with proxy.client() as client:
        client.send(request("GET", path, *UPGRADE, *token))
        seen = client.response()
        client.send(models(proxy))
        assert client.response().status == 200

    assert seen.outcome == (426, "UPGRADE_REFUSED")
    assert (seen.headers["upgrade"], seen.headers["connection"]) == ("HTTP/1.1", "upgrade")
    assert proxy.recorded_nothing_of(seen.request_id)


def test_an_upgrade_without_the_connection_option_gets_426(proxy: Loopback) -> None:
    """An intermediary removed the option, and the client waits for a WebSocket."""
    with proxy.client() as client:
        client.send(request("GET", "/v1/responses", "upgrade: websocket", "sec-websocket-version: 13"))
        assert client.response().outcome == (426, "UPGRADE_REFUSED")


def test_an_upgrade_with_an_incomplete_body_closes_the_connection(proxy: Loopback) -> None:
    """If the whole body has arrived, the connection stays open."""
    with proxy.client() as client:
        client.send(proxy.chat(None, *UPGRADE))
        assert client.response().outcome == (426, "UPGRADE_REFUSED")
        client.send(proxy.head("content-length: 5", *UPGRADE))
        seen = client.response()
        client.send(b"hello")
        assert client.is_at_end()

    assert seen.outcome == (426, "UPGRADE_REFUSED")
    assert seen.headers["connection"] == "upgrade, close"
    assert proxy.provider.requests == []


def test_a_pipelined_upgrade_gets_426_in_order(proxy: Loopback) -> None:
    """WebSocket frames after the refusal are invalid HTTP."""
    with proxy.client() as client:
        client.send(models(proxy) + request("GET", "/v1/responses", *UPGRADE) + models(proxy))
        assert [client.response().status for _ in range(3)] == [200, 426, 200]
        client.send(b"\x81\x85\x00\x00\x00\x00hello")
        assert client.response().outcome == (400, "VALIDATION_ERROR")
        assert client.is_at_end()


def test_head_returns_the_status_and_headers_of_get(proxy: Loopback) -> None:
    """The response has no body, so the client reads the next response correctly."""
    with proxy.client() as client:
        client.send(request("GET", "/schema/openapi.json"))
        document = json.loads(client.response().body)
        org_id = proxy.record(proxy.ask(completion("hello")).request_id).caller.org_id  # type: ignore[union-attr]
        described = [path for path, item in document["paths"].items() if "get" in item]
        assert len(described) > 5
        for template in (*described, "/schema", "/schema/openapi.json"):
            path = template.replace("{model_id}", "gpt-4o").replace("{org_id}", str(org_id))
            token = f"authorization: Bearer {proxy.token}"
            client.send(request("HEAD", path, token))
            status, headers = client.read_head()
            client.send(request("GET", path, token))
            whole = client.response()
            assert status == whole.status, path
            assert status == 200 or "{" in path
            assert headers["content-type"] == whole.headers["content-type"]
            if path not in ("/metrics", "/ready"):  # their bodies change between requests
                assert int(headers["content-length"]) == len(whole.body)


def test_a_preflight_of_a_configured_origin_gets_204(proxy: Loopback) -> None:
    """Any other origin gets 405. The connection serves the next request."""
    wanted = ("access-control-request-method: POST", "access-control-request-headers: authorization,content-type")
    with proxy.client() as client:
        client.send(request("OPTIONS", CHAT, f"origin: {PAGE}", *wanted))
        status, headers = client.read_head()
        client.send(request("OPTIONS", CHAT, "origin: https://other.test", *wanted))
        refused = client.response()

    assert status == 204
    assert not {"content-length", "transfer-encoding", "connection"} & headers.keys()
    assert headers["access-control-allow-origin"] == PAGE
    assert {"GET", "HEAD", "POST"} <= set(headers["access-control-allow-methods"].split(", "))
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    assert refused.outcome == (405, "METHOD_NOT_ALLOWED")
    assert "access-control-allow-origin" not in refused.headers


def test_responses_to_a_configured_origin_have_cors_headers(proxy: Loopback) -> None:
    """Completions, streams, early refusals, a 404 and the error for invalid HTTP have them."""
    page = f"origin: {PAGE}"
    seen: list[Seen] = []
    with proxy.client() as client:
        proxy.provider.put(completion("hello"))
        client.send(proxy.chat(None, page))
        seen.append(client.response())
        proxy.provider.put(text_stream("hello"))
        client.send(proxy.chat(None, page, stream=True))
        seen.append(client.response())
        for bad in (request("GET", "/v1/models", page), request("GET", "/chat", page)):
            client.send(bad)
            seen.append(client.response())
        client.send(request("GET", "/health", page, "host: second.test"))
        seen.append(client.response())

    assert [one.status for one in seen] == [200, 200, 401, 404, 400]
    assert seen[0].body == completion_body("hello")
    for one in seen:
        assert one.headers["access-control-allow-origin"] == PAGE
        assert one.headers["vary"] == "Origin"
        assert "X-Request-ID" in one.headers["access-control-expose-headers"]


@pytest.fixture
def prefixed(tmp_path: Path) -> Iterator[Loopback]:
    """A proxy with a base path and a short keep-alive."""
    settings = {"IBEX_BASE_PATH": "/gateway/", "IBEX_KEEP_ALIVE": str(KEEP_ALIVE_S)}
    with ScriptedOpenAI.in_thread() as provider, Loopback.running(provider, tmp_path, **settings) as proxy:
        yield proxy


def test_only_paths_with_the_base_path_are_served(prefixed: Loopback) -> None:
    """A load balancer forwards paths with the prefix. Other paths get 404."""
    prefixed.provider.put(completion("hello"))
    with prefixed.client() as client:
        client.send(prefixed.chat().replace(CHAT.encode(), b"/gateway" + CHAT.encode()))
        assert client.response().body == completion_body("hello")
        for path in ("/gateway/health", "/gateway/ready", "/gateway/metrics", "/gateway/schema"):
            client.send(request("GET", path))
            assert client.response().status == 200
        for path in ("/health", CHAT, "/gateway"):
            client.send(request("GET", path))
            seen = client.response()
            assert seen.outcome == (404, "NOT_FOUND")
            assert "POST /gateway/v1/chat/completions" in seen.error["message"]
    assert prefixed.metric("ibex_proxy_request_duration_seconds_count", route=CHAT, status="200") == 1


def test_an_idle_connection_is_closed_after_the_keep_alive(prefixed: Loopback) -> None:
    """A connection without any request has until IBEX_HEADER_TIMEOUT."""
    with prefixed.client() as silent, prefixed.client() as idle:
        idle.send(request("GET", "/gateway/health"))
        assert idle.response().status == 200
        assert idle.is_at_end()
        silent.send(request("GET", "/gateway/health"))
        assert silent.response().status == 200


def test_an_unknown_endpoint_gets_404(proxy: Loopback) -> None:
    """The message lists the endpoints that IBEX serves."""
    body = b"{}"
    for path in ("/v1/completions", "/v1/audio/transcriptions", "/chat/completions"):
        with proxy.client() as client:
            client.send(proxy.head(f"content-length: {len(body)}", path=path) + body)
            seen = client.response()
        assert seen.outcome == (404, "NOT_FOUND")
        assert "The endpoints are POST /v1/chat/completions" in seen.error["message"]


@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_an_empty_session_header_starts_a_new_session(proxy: Loopback, value: str) -> None:
    """IBEX treats the header as absent."""
    proxy.provider.put(completion("hello"))
    with proxy.client() as client:
        client.send(proxy.chat(None, f"x-ibex-session-id:{value}"))
        seen = client.response()

    assert seen.status == 200
    session = proxy.record(seen.request_id).session
    assert session is not None
    assert seen.headers["x-ibex-session-id"] == session.handle
    assert len(session.handle) == 36
