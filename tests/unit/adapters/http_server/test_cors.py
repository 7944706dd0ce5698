"""Tests of CORS: responses to pages of configured origins, and preflights."""

from __future__ import annotations

import pytest

from harness.chat_scene import event
from harness.http_scene import CHAT, HEADERS, STREAM_REQUEST, HttpScene, call, scripted_stream
from ibex.domain.provider_errors import ProviderRateLimitedError, ProviderUnavailableError

APP = "https://app.test"
OTHER = "http://localhost:3000"
STOP = event(b'{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}')
SAFELISTED = {"cache-control", "content-length", "content-type"}
"""The response headers that every page may read (Fetch Standard)."""
SERVERS_OWN = {"vary", "x-accel-buffering"}
ASKING = {
    "origin": APP,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-ibex-agent-id,x-stainless-lang",
}


def scene_of(*origins: str) -> HttpScene:
    """Return a scene that allows these origins."""
    scene = HttpScene()
    scene.cors_origins = origins
    return scene


def names_in(value: str) -> set[str]:
    """Return the lower-case names in a list of header names."""
    return {name.strip().lower() for name in value.split(",")}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", CHAT, 400),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/internal/auth-probe", 200),
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/nothing", 404),
        ("DELETE", CHAT, 405),
        ("OPTIONS", CHAT, 405),
    ],
)
@pytest.mark.parametrize(("origin", "allowed"), [(APP, (APP, OTHER)), (OTHER, (APP, OTHER)), (APP, ("*",))])
async def test_every_response_to_an_allowed_origin_has_cors_headers(
    method: str, path: str, status: int, origin: str, allowed: tuple[str, ...]
) -> None:
    """A page can read the response and its headers, even of an error. Credentials mode is not supported."""
    response = await scene_of(*allowed).get(path, method, headers={"origin": origin})

    assert response.status == status
    assert response.headers["access-control-allow-origin"] == (origin if "*" not in allowed else "*")
    assert response.headers["vary"] == "Origin"
    assert "x-request-id" in names_in(response.headers["access-control-expose-headers"])
    assert "access-control-allow-credentials" not in response.headers


async def test_every_header_of_ibex_is_exposed() -> None:
    """This covers completions, streams, refusals and failures; ``test_exchange_headers`` covers the exchange."""
    limited, failed, stream = scene_of(APP), scene_of(APP), scene_of(APP)
    limited.chat.provider.answer = ProviderRateLimitedError(retry_after_s=1)
    failed.chat.provider.answer = ProviderUnavailableError(attempts=4)
    stream.chat.provider.answer = scripted_stream([STOP], [event(b"[DONE]")])
    origin: dict[str, str | None] = {"origin": APP}
    responses = [
        await scene_of(APP).post(headers=origin),
        await limited.post(headers=origin),
        await failed.post(headers=origin),
        await stream.post(STREAM_REQUEST, headers=origin),
        await scene_of(APP).post(headers={"origin": APP, "authorization": None}),
        await scene_of(APP).get(CHAT, headers=origin),
    ]

    assert [response.status for response in responses] == [200, 429, 503, 200, 401, 405]
    for response in responses:
        exposed = names_in(response.headers["access-control-expose-headers"])
        own = {name for name in response.headers if not name.startswith("access-control-")}
        assert own - SAFELISTED - SERVERS_OWN <= exposed


@pytest.mark.parametrize("origin", ["https://app.test.evil", "http://app.test", "https://APP.test", "null", ""])
async def test_another_origin_gets_no_permission(origin: str) -> None:
    """IBEX serves the request, as from any client, but the browser hides the response from the page."""
    response = await scene_of(APP).get("/health", headers={"origin": origin})

    assert response.status == 200
    assert not any(name.startswith("access-control-") for name in response.headers)
    assert response.headers["vary"] == "Origin"


async def test_a_request_without_an_origin_is_unchanged() -> None:
    """It is not from a page. Without the setting, no response has CORS headers."""
    for scene, headers in ((scene_of(APP), {}), (scene_of("*"), {}), (HttpScene(), {"origin": APP})):
        response = await scene.get("/health", headers=dict(headers))
        assert not any(name == "vary" or name.startswith("access-control-") for name in response.headers)


async def test_a_request_with_two_origins_gets_no_permission() -> None:
    """Browsers never send two."""
    scene = scene_of(APP)
    twice = await scene.get("/health", headers={"origin": f"{APP}, {APP}"})

    assert "access-control-allow-origin" not in twice.headers


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/health", "/nothing", "/v1/orgs/x/chat/completions"])
async def test_a_preflight_is_answered(path: str) -> None:
    """It needs no token, and any path works: after a failed preflight, the page could not read a 404."""
    scene = scene_of(APP)

    response = await call(scene.app(), "OPTIONS", path, dict(ASKING))

    assert (response.status, response.body) == (204, b"")
    assert response.headers["access-control-allow-origin"] == APP
    assert {"GET", "HEAD", "POST"} <= set(response.headers["access-control-allow-methods"].split(", "))
    assert response.headers["access-control-allow-headers"] == ASKING["access-control-request-headers"]
    assert int(response.headers["access-control-max-age"]) > 0
    assert response.headers["vary"] == "Origin"
    assert "content-length" not in response.headers
    assert response.headers["x-request-id"]
    assert [(ended.method, ended.status) for ended in scene.observer.requests] == [("OPTIONS", 204)]


@pytest.mark.parametrize(
    ("origins", "change"),
    [
        ((), {}),
        ((APP,), {"origin": "https://other.test"}),
        ((APP,), {"origin": None}),
        ((APP,), {"access-control-request-method": None}),
    ],
)
async def test_other_options_requests_are_refused(origins: tuple[str, ...], change: dict[str, str | None]) -> None:
    """This applies without the setting, to another origin, and to a request that is not a preflight."""
    headers: dict[str, str | None] = {**ASKING, **change}

    response = await call(scene_of(*origins).app(), "OPTIONS", CHAT, headers)

    assert (response.status, response.error["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "POST"
    assert "access-control-allow-methods" not in response.headers


@pytest.mark.parametrize("wanted", [None, "authorization: x", "a" * 5_000])
async def test_invalid_header_names_of_a_preflight_are_not_echoed(wanted: str | None) -> None:
    """The list comes from the request, so IBEX checks its characters."""
    headers: dict[str, str | None] = {**ASKING, "access-control-request-headers": wanted}

    response = await call(scene_of("*").app(), "OPTIONS", CHAT, headers)

    assert response.status == 204
    assert "access-control-allow-headers" not in response.headers


async def test_a_stream_is_sent_as_without_cors() -> None:
    """The client gets the same events."""
    scene = scene_of(APP)
    scene.chat.provider.answer = scripted_stream([STOP], [event(b"[DONE]")])

    with_cors = await call(scene.app(), "POST", CHAT, {**HEADERS, "origin": APP}, STREAM_REQUEST)
    plain = HttpScene(scripted_stream([STOP], [event(b"[DONE]")]))

    assert with_cors.chunks == (await plain.post(STREAM_REQUEST)).chunks
