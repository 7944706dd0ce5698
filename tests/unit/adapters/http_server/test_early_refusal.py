"""Tests of requests that the server protocol refuses by their head alone."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from harness.chat_scene import BEARER, ORG
from harness.http_scene import CHAT, REQUEST, HttpScene
from harness.server_connection import RecordingTransport
from ibex.adapters.http_server.server_protocol import LimitedHttpProtocol

if TYPE_CHECKING:
    from collections.abc import Sequence

CHAT_OF_ORG = f"/v1/orgs/{ORG}/chat/completions"


class _Proxy:
    """A connection to the whole application. Without ``early``, its requests take the normal path."""

    def __init__(self, *, early: bool = True, base_path: str = "", cors_origins: Sequence[str] = ()) -> None:
        self.scene = HttpScene()
        self.scene.base_path, self.scene.cors_origins = base_path, cors_origins
        app: Any = self.scene.app()
        if not early:
            app.early_refusals = None
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", proxy_headers=False)
        config.load()
        self.transport = RecordingTransport()
        self.state = ServerState()
        self.protocol = LimitedHttpProtocol(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.transport)

    def send(self, data: bytes) -> bool:
        """Send data; return whether the response came without a task."""
        self.protocol.data_received(data)
        return bool(self.transport.written) and not self.state.tasks

    async def finish(self) -> bytes:
        """Return all data that was written once no request runs."""
        while self.state.tasks:
            await asyncio.gather(*self.state.tasks)
        self.protocol.connection_lost(None)
        return self.transport.written


def _head(*lines: str, method: str = "POST", path: str = CHAT, body: bytes = b"", version: str = "1.1") -> bytes:
    length = [f"content-length: {len(body)}"] if body else []
    first = [f"{method} {path} HTTP/{version}", "host: ibex.test", "content-type: application/json"]
    return "\r\n".join([*first, *length, *lines, "", ""]).encode("latin-1")


def _parsed(response: bytes) -> tuple[str, dict[str, str], dict[str, Any]]:
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines), "a header was sent twice"
    assert int(headers["content-length"]) == len(body)
    return status, headers, json.loads(body)["error"]


@pytest.mark.parametrize("path", [CHAT, CHAT_OF_ORG, CHAT + "?a=b"])
@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("authorization: Basic dXNlcjpwYXNz",),
        ("authorization: Bearer ",),
        ("authorization: Bearer",),
        ("authorization: bearer x",),
        ("authorization: Bearer\tx",),
        ("authorization: \xa0Bearer x",),
        ("authorization: Bearer \xff",),
        (f"authorization: {BEARER}", f"authorization: {BEARER}"),
        ("authorization:  BEARER   sk-not-a-token  ", "x-request-id: 0190a8f0-0000-7000-8000-000000000001"),
        ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",),
    ],
)
async def test_an_early_refusal_equals_the_response_of_the_normal_path(path: str, lines: tuple[str, ...]) -> None:
    """Only the times of the stages are missing."""
    early, usual = _Proxy(), _Proxy(early=False)
    sent = _head(*lines, path=path, body=REQUEST)

    assert early.send(sent + REQUEST)
    assert not usual.send(sent + REQUEST)

    status, headers, error = _parsed(await early.finish())
    usual_status, usual_headers, usual_error = _parsed(await usual.finish())
    assert status == usual_status == "HTTP/1.1 401 Unauthorized"
    assert headers["x-request-id"] == error["request_id"]
    assert list(error) == list(usual_error)
    assert headers.keys() == usual_headers.keys() - {"server-timing"}
    for one, other in ((headers, usual_headers), (error, usual_error)):
        for name in one.keys() - {"content-length", "x-response-time", "timestamp"}:
            made_up = name in ("x-request-id", "request_id") and not any("x-request-id" in line for line in lines)
            made_up |= name == "x-trace-id" and not any("traceparent" in line for line in lines)
            assert made_up or one[name] == other[name], name


@pytest.mark.parametrize("path", ["/v1/models", "/v1/internal/auth-probe", f"/v1/orgs/{ORG}/auth-probe"])
async def test_every_route_that_needs_a_token_refuses_early(path: str) -> None:
    """This includes routes without a body."""
    proxy = _Proxy()

    assert proxy.send(_head(method="GET", path=path))

    assert (await proxy.finish()).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/v1/nothing", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/orgs/a/b/chat/completions", 404),
        ("POST", "/v1/orgs/../chat/completions", 404),
        ("POST", CHAT + "/", 404),
    ],
)
async def test_other_requests_take_the_normal_path(method: str, path: str, status: int) -> None:
    """They are for a route that needs no token, or for a path without a route."""
    proxy = _Proxy()

    assert not proxy.send(_head(method=method, path=path))

    assert (await proxy.finish()).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("cors_origins", [("https://app.test",), ("*",)])
@pytest.mark.parametrize("origin", ["https://app.test", "https://other.test", None])
async def test_an_early_refusal_has_the_same_cors_headers(cors_origins: tuple[str, ...], origin: str | None) -> None:
    """A page without a token can read the refusal."""
    lines = () if origin is None else (f"origin: {origin}",)
    early, usual = _Proxy(cors_origins=cors_origins), _Proxy(early=False, cors_origins=cors_origins)

    assert early.send(_head(*lines, body=REQUEST) + REQUEST)
    assert not usual.send(_head(*lines, body=REQUEST) + REQUEST)

    headers, usual_headers = _parsed(await early.finish())[1], _parsed(await usual.finish())[1]
    assert headers.keys() == usual_headers.keys() - {"server-timing"}
    allowed = origin if origin == cors_origins[0] else "*" if origin and cors_origins == ("*",) else None
    assert headers.get("access-control-allow-origin") == usual_headers.get("access-control-allow-origin") == allowed


@pytest.mark.parametrize("path", [CHAT, CHAT_OF_ORG])
async def test_a_request_below_the_base_path_is_refused_early(path: str) -> None:
    """The observer gets the route without the base path. A path outside it gets 404."""
    proxy = _Proxy(base_path="/gate.way")

    assert proxy.send(_head(path="/gate.way" + path, body=REQUEST) + REQUEST)
    proxy.protocol.data_received(_head(path="/gateXway" + path, body=REQUEST) + REQUEST)

    written = await proxy.finish()
    assert [part[:3] for part in written.split(b"HTTP/1.1 ")[1:]] == [b"401", b"404"]
    assert proxy.scene.observer.requests[0].route == path.replace(str(ORG), "{org_id}")


async def test_an_upgrade_to_websocket_takes_the_normal_path() -> None:
    """It gets 426 whether it has a token or not."""
    proxy = _Proxy()

    assert not proxy.send(_head("upgrade: websocket", method="GET", path="/v1/models"))

    status, headers, error = _parsed(await proxy.finish())
    assert (status, error["code"]) == ("HTTP/1.1 426 Upgrade Required", "UPGRADE_REFUSED")
    assert (headers["upgrade"], headers["connection"]) == ("HTTP/1.1", "upgrade")


async def test_a_well_formed_token_takes_the_normal_path() -> None:
    """Only admission can tell whether it is valid."""
    proxy = _Proxy()

    assert not proxy.send(_head(f"authorization: {BEARER}", body=REQUEST) + REQUEST)

    await proxy.finish()
    assert proxy.scene.observer.requests[0].in_flight is not None


async def test_a_refusal_before_the_body_closes_the_connection() -> None:
    """The connection lingers, and IBEX discards the body."""
    proxy = _Proxy()

    assert proxy.send(_head(body=REQUEST))
    proxy.protocol.data_received(REQUEST)
    proxy.protocol.data_received(_head(body=REQUEST))

    assert proxy.transport.half_closed
    assert not proxy.transport.aborted
    written = await proxy.finish()
    assert written.count(b"HTTP/1.1 401 ") == 1
    assert _parsed(written)[1]["connection"] == "close"
    assert len(proxy.scene.observer.requests) == 1


async def test_a_refusal_after_the_body_keeps_the_connection() -> None:
    """IBEX serves the next request of any kind on the connection."""
    proxy = _Proxy()
    whole = _head(body=REQUEST) + REQUEST

    assert proxy.send(whole)
    assert proxy.send(whole)
    proxy.send(_head(method="GET", path="/health"))

    written = await proxy.finish()
    assert (written.count(b"HTTP/1.1 401 "), written.count(b"HTTP/1.1 200 ")) == (2, 1)
    assert b"connection: close" not in written
    assert not proxy.transport.half_closed


@pytest.mark.parametrize(("lines", "version"), [(("connection: close",), "1.1"), ((), "1.0")])
async def test_data_after_the_last_request_of_a_connection_is_discarded(lines: tuple[str, ...], version: str) -> None:
    """``Connection: close`` or HTTP/1.0 makes a request the last one of its connection."""
    proxy = _Proxy()
    whole = _head(*lines, body=REQUEST, version=version) + REQUEST

    assert proxy.send(whole + whole)

    assert proxy.transport.half_closed
    written = await proxy.finish()
    assert written.count(b"HTTP/1.1 ") == 1
    assert _parsed(written)[1]["connection"] == "close"


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Only the first of a read is refused early, so that thousands in one read do not block the event loop."""
    proxy = _Proxy()

    proxy.protocol.data_received(b"".join(_head(body=REQUEST, path=path) + REQUEST for path in (CHAT, "/v1/x", CHAT)))

    assert proxy.transport.written.count(b"HTTP/1.1 ") == 1
    written = await proxy.finish()
    assert [part[:3] for part in written.split(b"HTTP/1.1 ")[1:]] == [b"401", b"404", b"401"]


async def test_a_head_behind_a_running_request_takes_the_normal_path() -> None:
    """Its response has to wait."""
    proxy = _Proxy()
    proxy.protocol.data_received(_head(method="GET", path="/health"))

    proxy.protocol.data_received(_head(body=REQUEST) + REQUEST)

    assert not proxy.transport.written
    assert (await proxy.finish()).index(b"200 OK") < proxy.transport.written.index(b"401 Unauthorized")


async def test_an_invalid_body_after_the_head_gets_one_response() -> None:
    """The response is for the invalid body, and no early refusal is sent."""
    proxy = _Proxy()

    proxy.protocol.data_received(_head("transfer-encoding: chunked") + b"not a size\r\n")

    assert (await proxy.finish()).count(b"HTTP/1.1 ") == 1


async def test_every_refusal_is_observed_once() -> None:
    """The observer gets the template of the route, and no exchange."""
    proxy = _Proxy()
    proxy.send(_head(path=CHAT_OF_ORG, body=REQUEST) + REQUEST)
    await proxy.finish()

    ((method, route, status, in_flight),) = [
        (ended.method, ended.route, ended.status, ended.in_flight) for ended in proxy.scene.observer.requests
    ]
    assert (method, route, status, in_flight) == ("POST", "/v1/orgs/{org_id}/chat/completions", 401, None)
    assert len(proxy.scene.observer.begun) == 1
    assert proxy.state.total_requests == 1
