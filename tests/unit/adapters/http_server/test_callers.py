"""Tests of the model list and the auth probes, which require authentication and record no exchange."""

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
    """The list contains the provider's routed models only. The request needs no agent id."""
    scene = HttpScene()
    scene.chat.provider.listed = [ProviderModel("gpt-4o", 1_715_367_049, "system"), ProviderModel("whisper-1")]

    response = await scene.get("/v1/models", headers={"x-ibex-agent-id": None})

    assert json.loads(response.body) == {
        "object": "list",
        "data": [{"id": "gpt-4o", "object": "model", "created": 1_715_367_049, "owned_by": "system"}],
    }


async def test_the_configured_models_are_listed_if_the_provider_is_unavailable() -> None:
    """The list contains the configured names and omits patterns."""
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
    """The id is the requested name, which may contain slashes."""
    scene = HttpScene()
    scene.chat.provider.listed = [ProviderModel(name, 7, "acme")]
    response = await scene.get(f"/v1/models/{name}")

    assert response.status == 200
    assert json.loads(response.body) == {"id": name, "object": "model", "created": 7, "owned_by": "acme"}


@pytest.mark.parametrize("name", ["claude", "gpt-5", "gpt-*"])
async def test_a_model_that_is_not_in_the_list_is_not_found(name: str) -> None:
    """The error code is OpenAI's. The refusal is attributed to the organization and is not an excess refusal."""
    scene, observer = HttpScene(), RecordingRequestObserver()
    response = await call(scene.app(observer), "GET", f"/v1/models/{name}", HEADERS)

    assert (response.status, response.error["code"]) == (404, "model_not_found")
    (ended,) = observer.requests
    assert ended.in_flight is not None
    assert ended.in_flight.is_excess_refusal is False


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o", "/v1/internal/auth-probe"])
async def test_models_and_probes_require_a_token(path: str) -> None:
    """A missing token is refused. An outage of auth returns 503 and not 401."""
    scene = HttpScene()

    assert (await scene.get(path, headers={"authorization": None})).error["code"] == "MISSING_TOKEN"
    scene.chat.tokens.answer = ServiceDegradedError()
    outage = await scene.get(path)
    assert (outage.status, outage.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("path", ["/v1/internal/auth-probe", f"/v1/orgs/{ORG}/auth-probe"])
async def test_a_probe_runs_admission_only(path: str) -> None:
    """It validates token and agent and counts against the rate limit, but records nothing and calls no provider."""
    scene = HttpScene()

    response = await scene.get(path)

    assert json.loads(response.body) == {"status": "ok", "org_id": str(ORG), "agent_id": str(AGENT)}
    assert response.headers["x-ratelimit-remaining"] == "599"
    assert response.headers["server-timing"].startswith("auth;dur=")
    assert scene.chat.observer.exchanges == []
    assert scene.chat.provider.asked == []
    assert scene.observer.requests[0].in_flight is not None


async def test_a_probe_without_an_agent_is_refused() -> None:
    """The token in this test is not bound to an agent."""
    response = await HttpScene().get("/v1/internal/auth-probe", headers={"x-ibex-agent-id": None})

    assert (response.status, response.error["code"]) == (400, "MISSING_AGENT_ID")


@pytest.mark.parametrize("path", ["/v1/internal/auth-probe", "/v1/models", "/v1/models/gpt-4o"])
async def test_a_request_beyond_the_authentication_limit_is_refused(path: str) -> None:
    """It is refused before the token is validated. Every admitted request releases its place, also after a 401."""
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
