"""The official OpenAI SDK, unmodified, with `ibex dev` and a scripted OpenAI server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from harness.openai_wire import error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.dev import IbexDev
    from harness.openai import ScriptedOpenAI

pytestmark = pytest.mark.integration

MODEL = "gpt-4o-mini"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(provided_dev: IbexDev) -> Iterator[openai.OpenAI]:
    """An SDK client that has only a base URL and a bound token."""
    with openai.OpenAI(
        base_url=f"{provided_dev.address}/v1", api_key=provided_dev.installation["agent_token"], max_retries=0
    ) as sdk:
        yield sdk


def test_a_buffered_chat_succeeds(client: openai.OpenAI) -> None:
    """The SDK's model object has the text and the usage."""
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


def test_a_streamed_chat_hides_unrequested_usage(client: openai.OpenAI) -> None:
    """Every chunk has a choice, although the proxy requests usage from the provider."""
    with client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        chunks = list(stream)
    assert all(chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_a_streamed_chat_shows_requested_usage(client: openai.OpenAI) -> None:
    """The last chunk is the usage chunk."""
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_tools_are_forwarded_and_called(client: openai.OpenAI) -> None:
    """The SDK returns the tool call as its own type."""
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=tools)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls


def test_a_json_schema_response_format_is_forwarded(client: openai.OpenAI, upstream: ScriptedOpenAI) -> None:
    """The provider gets the client's schema unchanged. The response is JSON."""
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "animal", "schema": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, response_format=schema)
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    assert json.loads(upstream.requests[-1].body)["response_format"] == schema


def test_image_parts_are_forwarded(client: openai.OpenAI, upstream: ScriptedOpenAI) -> None:
    """The provider gets the client's parts unchanged."""
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])
    assert json.loads(upstream.requests[-1].body)["messages"][-1]["content"] == parts


async def test_the_async_client_works_buffered_and_streamed(provided_dev: IbexDev) -> None:
    """AsyncOpenAI behaves like OpenAI."""
    token = provided_dev.installation["agent_token"]
    async with openai.AsyncOpenAI(base_url=f"{provided_dev.address}/v1", api_key=token, max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
        assert answer.choices[0].message.content
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        assert [chunk async for chunk in stream]


def test_doctor_finds_the_provider_of_the_instance_without_its_key(
    provided_dev: IbexDev, upstream: ScriptedOpenAI
) -> None:
    """Its environment has neither the key nor the URL. It asks the provider without a key."""
    (found,) = (one for one in provided_dev.ibex_json("doctor")["findings"] if one["name"] == "provider")

    assert f"{upstream.base_url} can be reached" in found["message"]
    assert "authorization" not in {name.lower() for name, _ in upstream.requests[-1].headers}


def test_an_agent_named_in_a_default_header_works(provided_dev: IbexDev) -> None:
    """An unbound token acts as the agent that the header names."""
    with openai.OpenAI(
        base_url=f"{provided_dev.address}/v1",
        api_key=provided_dev.installation["admin_token"],
        default_headers={"X-IBEX-Agent-ID": provided_dev.installation["agent_id"]},
        max_retries=0,
    ) as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert raw.headers["x-ibex-directive"].startswith("1@")
    assert raw.headers["x-ibex-session-id"]


def test_models_are_listed(client: openai.OpenAI) -> None:
    """The SDK can list the models and retrieve a routed model."""
    assert [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


class TestErrors:
    """The SDK raises the exception class for each status."""

    def test_a_wrong_field_raises_bad_request_error(self, client: openai.OpenAI) -> None:
        """The error names the field."""
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO, temperature=9)
        assert caught.value.code == "VALIDATION_ERROR"
        assert "temperature" in str(caught.value)

    def test_a_refusal_of_the_provider_raises_bad_request_error(
        self, client: openai.OpenAI, upstream: ScriptedOpenAI
    ) -> None:
        """The exception has the provider's message and code."""
        upstream.put(error(400, "too many tokens", code="context_length_exceeded", param="messages"))
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO)
        body: Any = caught.value.body
        assert body["code"] == caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"
        assert "too many tokens" in str(caught.value)

    def test_an_unknown_token_raises_authentication_error(self, provided_dev: IbexDev) -> None:
        """The status is 401."""
        with (
            openai.OpenAI(base_url=f"{provided_dev.address}/v1", api_key="sk-not-ours", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.chat.completions.create(model=MODEL, messages=HELLO)
        assert caught.value.code == "INVALID_TOKEN"

    def test_a_foreign_agent_raises_permission_denied_error(self, client: openai.OpenAI) -> None:
        """The status is 403."""
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.chat.completions.create(
                model=MODEL, messages=HELLO, extra_headers={"X-IBEX-Agent-ID": "01980000-0000-7000-8000-000000000000"}
            )
        assert caught.value.code == "AGENT_NOT_AUTHORIZED"

    def test_a_request_over_the_limit_raises_rate_limit_error(self, provided_dev: IbexDev) -> None:
        """The response has a Retry-After header."""
        org = provided_dev.ibex_json("org", "create", "small", "--rpm", "1")["id"]
        agent = provided_dev.ibex_json("agent", "create", "one", "--org", org)["id"]
        token = provided_dev.ibex_json("token", "create", "--name", "t", "--org", org, "--agent", agent)["token"]

        def three_times(client: openai.OpenAI) -> None:  # at most one minute ends in between
            for _ in range(3):
                client.chat.completions.create(model=MODEL, messages=HELLO)

        with (
            openai.OpenAI(base_url=f"{provided_dev.address}/v1", api_key=token, max_retries=0) as client,
            pytest.raises(openai.RateLimitError) as caught,
        ):
            three_times(client)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        assert caught.value.code == "RATE_LIMITED"

    def test_a_model_without_a_provider_raises_not_found_error(self, client: openai.OpenAI) -> None:
        """The exception has OpenAI's own code."""
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="not-routed", messages=HELLO)
        assert caught.value.code == "model_not_found"
        assert caught.value.response.headers["x-ibex-error-source"] == "proxy"

    def test_a_failing_provider_raises_internal_server_error(
        self, client: openai.OpenAI, upstream: ScriptedOpenAI
    ) -> None:
        """The status is 503, and the SDK does not retry."""
        upstream.put(*[error(500, "secret stack trace")] * 4)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "secret stack trace" not in caught.value.response.text
