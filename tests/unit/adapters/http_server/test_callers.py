"""Models and probes: only for callers, and without leaving anything on record."""

from __future__ import annotations

import json

import pytest

from harness.chat_scene import AGENT, ORG
from harness.http_scene import HEADERS, HttpScene, RecordingRequestObserver, call
from ibex.domain.errors import ServiceDegradedError
from ibex.domain.provider_errors import ProviderUnavailableError
from ibex.domain.proxying.capacity import Capacity
from ibex.domain.proxying.provider import ProviderModel


async def test_models_are_listed_in_openais_shape() -> None:
    """The provider's own models, without those that are not routed. No agent is needed."""
    scene = HttpScene()
    scene.chat.provider.listed = [ProviderModel("gpt-4o", 1_715_367_049, "system"), ProviderModel("whisper-1")]

    response = await scene.get("/v1/models", headers={"x-ibex-agent-id": None})

    assert json.loads(response.body) == {
        "object": "list",
        "data": [{"id": "gpt-4o", "object": "model", "created": 1_715_367_049, "owned_by": "system"}],
    }


async def test_a_provider_that_cannot_be_asked() -> None:
    """The configured names are listed, and no pattern is."""
    scene = HttpScene()
    scene.chat.provider.models = ("gpt-*", "o1")
    scene.chat.provider.listed = ProviderUnavailableError()

    response = await scene.get("/v1/models")

    created = int(scene.chat.clock.now().timestamp())
    assert json.loads(response.body) == {
        "object": "list",
        "data": [{"id": "o1", "object": "model", "created": created, "owned_by": "openai"}],
    }


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4o/tuned/1"])
async def test_a_model_of_the_list_is_described(name: str) -> None:
    """By the name that was asked for, slashes included."""
    scene = HttpScene()
    scene.chat.provider.listed = [ProviderModel(name, 7, "acme")]
    response = await scene.get(f"/v1/models/{name}")

    assert response.status == 200
    assert json.loads(response.body) == {"id": name, "object": "model", "created": 7, "owned_by": "acme"}


@pytest.mark.parametrize("name", ["claude", "gpt-5", "gpt-*"])
async def test_a_model_that_is_not_in_the_list_is_not_found(name: str) -> None:
    """The envelope says so, and it counts as a refusal of the organization's."""
    scene, observer = HttpScene(), RecordingRequestObserver()
    response = await call(scene.app(observer), "GET", f"/v1/models/{name}", HEADERS)

    assert (response.status, response.error["code"]) == (404, "model_not_found")
    (ended,) = observer.requests
    assert ended.in_flight is not None
    assert ended.in_flight.is_excess_refusal is False


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o", "/v1/internal/auth-probe"])
async def test_callers_are_authenticated(path: str) -> None:
    """No token, no answer; and no 401 for an outage."""
    scene = HttpScene()

    assert (await scene.get(path, headers={"authorization": None})).error["code"] == "MISSING_TOKEN"
    scene.chat.tokens.answer = ServiceDegradedError()
    outage = await scene.get(path)
    assert (outage.status, outage.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("path", ["/v1/internal/auth-probe", f"/v1/orgs/{ORG}/auth-probe"])
async def test_a_probe_does_what_comes_before_a_completion(path: str) -> None:
    """Authenticated, agent checked, counted; nothing is recorded and no provider asked."""
    scene = HttpScene()

    response = await scene.get(path)

    assert json.loads(response.body) == {"status": "ok", "org_id": str(ORG), "agent_id": str(AGENT)}
    assert response.headers["x-ratelimit-remaining"] == "599"
    assert response.headers["server-timing"].startswith("auth;dur=")
    assert scene.chat.observer.exchanges == []
    assert scene.chat.provider.asked == []
    assert scene.observer.requests[0].in_flight is not None


async def test_a_probe_without_an_agent_is_refused() -> None:
    """Unless the token is bound to one."""
    response = await HttpScene().get("/v1/internal/auth-probe", headers={"x-ibex-agent-id": None})

    assert (response.status, response.error["code"]) == (400, "MISSING_AGENT_ID")


@pytest.mark.parametrize("path", ["/v1/internal/auth-probe", "/v1/models", "/v1/models/gpt-4o"])
async def test_too_many_requests_in_authentication(path: str) -> None:
    """One more is refused before anything is looked up; what was let in is let out, whatever came of it."""
    scene = HttpScene()
    scene.chat.capacity = Capacity(slots=1, body_bytes=1, max_authenticating=1)
    scene.chat.capacity.begin_authentication()
    refused = await scene.get(path)
    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "OVERLOADED", "1")
    assert scene.chat.tokens.asked == []

    scene.chat.capacity.end_authentication()
    attempts: list[tuple[dict[str, str | None], int]] = [({"authorization": None}, 401), ({}, 200), ({}, 200)]
    for headers, status in attempts:
        assert (await scene.get(path, headers=headers)).status == status
    assert scene.chat.capacity.authenticating == 0
