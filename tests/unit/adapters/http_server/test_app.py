"""Tests of the application: independence of its instances, strict paths, the base path, and the messages of 404s."""

from __future__ import annotations

import json

import pytest

from harness.chat_scene import ORG
from harness.http_scene import CHAT, HEADERS, REQUEST, HttpScene, call
from ibex.adapters.http_server.app import create_ops_app


async def test_applications_share_nothing() -> None:
    """Two applications in one process use only their own provider and settings."""
    one, other = HttpScene(), HttpScene()
    other.docs_base = "https://docs.test"
    one_app, other_app = one.app(), other.app()

    await call(one_app, "POST", CHAT, HEADERS, REQUEST)
    response = await call(other_app, "GET", "/nothing")

    assert len(one.chat.provider.asked) == 1
    assert other.chat.provider.asked == []
    assert response.error["docs_url"] == "https://docs.test/NOT_FOUND"


ORG_CHAT = f"/v1/orgs/{ORG}/chat/completions"
OTHERWISE = [
    CHAT + "/",
    "/" + CHAT,
    "/v1//chat/completions",
    "/v1/./chat/completions",
    "/v1/x/../chat/completions",
    "/v1/chat%2Fcompletions",
    "/v1/%63hat/completions",
    "/v1/chat/completions%20",
    "/v1/chat/completions%00",
    "/v1/chat/completions;x",
    "/v1/chat;x/completions",
    "/v1\\chat\\completions",
    "/V1/chat/completions",
    ORG_CHAT + "/",
    ORG_CHAT.replace("/chat", "//chat"),
    ORG_CHAT.replace("-", "%2D", 1),
    ORG_CHAT.replace("/chat", ";x/chat"),
    ORG_CHAT.replace("/chat", "%20/chat"),
]


@pytest.mark.parametrize("path", OTHERWISE)
async def test_a_path_that_is_not_in_its_canonical_form_is_not_found(path: str) -> None:
    """IBEX does not normalize paths, so that a reverse proxy that filters by path sees the same path as IBEX."""
    response = await HttpScene().post(path=path)

    assert (response.status, response.error["code"]) == (404, "NOT_FOUND")


async def test_an_organization_id_in_upper_case_is_accepted() -> None:
    """Both cases denote the same UUID."""
    assert (await HttpScene().post(path=ORG_CHAT.replace(str(ORG), str(ORG).upper()))).status == 200


@pytest.mark.parametrize("path", ["/v1/models/gpt-4o", "/v1/models/gpt%2D4o", "/v1/models/%67pt-4o"])
async def test_a_percent_encoded_model_id_is_accepted(path: str) -> None:
    """Some clients percent-encode the id as one path segment."""
    assert (await call(HttpScene().app(), "GET", path, HEADERS)).status == 200


@pytest.mark.parametrize(
    "path",
    ["/v1/models/gpt-4o/", "/v1/models//gpt-4o", "/v1/models/%2Fgpt-4o", "/v1/models/./gpt-4o", "/v1/models/a%0A"],
)
async def test_a_model_path_with_extra_slashes_dots_or_control_characters_is_not_found(path: str) -> None:
    """Percent-encoding of the id is the only accepted variation."""
    assert (await call(HttpScene().app(), "GET", path, HEADERS)).status == 404


LOST = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("POST", "/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/audio/transcriptions"),
]


@pytest.mark.parametrize(("method", "path"), LOST)
async def test_a_404_lists_the_endpoints(method: str, path: str) -> None:
    """It helps users of a browser, of an SDK whose base URL lacks /v1, or of an endpoint that is not served."""
    response = await call(HttpScene().app(), method, path)

    assert (response.status, response.error["code"]) == (404, "NOT_FOUND")
    message = response.error["message"]
    assert message.startswith("Not found. The endpoints are POST /v1/chat/completions")
    assert "GET /v1/models, /v1/models/{model_id}" in message
    assert message.endswith(
        " GET /schema describes them."
        " Paths are not normalized: do not send empty segments, a trailing slash or percent-encoding."
    )


BELOW = [
    ("POST", CHAT, 200, CHAT),
    ("POST", ORG_CHAT, 200, "/v1/orgs/{org_id}/chat/completions"),
    ("GET", "/v1/models/gpt%2D4o", 200, "/v1/models/{model_id}"),
    ("GET", "/v1/internal/auth-probe", 200, "/v1/internal/auth-probe"),
    ("GET", "/health", 200, "/health"),
    ("HEAD", "/ready", 200, "/ready"),
    ("GET", "/metrics", 200, "/metrics"),
    ("GET", "/schema", 200, "/schema"),
    ("GET", "/schema/openapi.json", 200, "/schema/openapi.json"),
    ("GET", CHAT, 405, ""),
    ("GET", "", 404, ""),
    ("GET", "/", 404, ""),
    ("GET", "//health", 404, ""),
    ("GET", "/../health", 404, ""),
]


@pytest.mark.parametrize(("method", "path", "status", "route"), BELOW)
async def test_a_base_path_is_a_prefix_of_every_path(method: str, path: str, status: int, route: str) -> None:
    """Metrics and logs contain the route without the base path."""
    scene = HttpScene()
    scene.base_path = "/a/gate-way"

    response = await call(scene.app(), method, "/a/gate-way" + path, HEADERS, REQUEST)

    assert response.status == status
    assert [ended.route for ended in scene.observer.requests] == [route]


@pytest.mark.parametrize(
    "path", [CHAT, "/health", "/schema", "/gateways/health", "/gatewayhealth", "/gate%77ay/health", "/x/gateway/health"]
)
async def test_a_path_outside_the_base_path_is_not_found(path: str) -> None:
    """The message lists the endpoints with the base path, and the provider is not called."""
    scene = HttpScene()
    scene.base_path = "/gateway"

    response = await call(scene.app(), "POST" if path == CHAT else "GET", path, HEADERS, REQUEST)

    assert (response.status, response.error["code"]) == (404, "NOT_FOUND")
    assert "POST /gateway/v1/chat/completions" in response.error["message"]
    assert "GET /gateway/v1/models" in response.error["message"]
    assert "GET /gateway/schema" in response.error["message"]
    assert scene.chat.provider.asked == []


async def test_the_document_names_the_base_path_as_its_server() -> None:
    """The paths in the document are relative to the server URL."""
    scene = HttpScene()
    scene.base_path = "/gateway"

    document = json.loads((await scene.get("/gateway/schema/openapi.json")).body)

    assert document["servers"] == [{"url": "/gateway"}]
    assert CHAT in document["paths"]
    assert json.loads((await HttpScene().get("/schema/openapi.json")).body)["servers"] == [{"url": "/"}]


async def test_the_operations_port_lists_its_own_endpoints() -> None:
    """The port serves no OpenAPI document, so the message names none."""
    scene = HttpScene()
    app = create_ops_app(
        clock=scene.chat.clock,
        ids=scene.chat.ids,
        render_metrics=lambda: (b"", "text/plain"),
        readiness_checks=[],
        drain=scene.drain,
        observer=scene.observer,
    )

    message = (await call(app, "GET", "/")).error["message"]

    assert message.startswith("Not found. The endpoints are GET /health, /ready, /metrics. Paths are not")


async def test_a_404_for_a_missing_model_does_not_list_the_endpoints() -> None:
    """The path is valid, so the list would not help."""
    response = await call(HttpScene().app(), "GET", "/v1/models/nothing", HEADERS)

    assert response.status == 404
    assert "detail" not in response.error
