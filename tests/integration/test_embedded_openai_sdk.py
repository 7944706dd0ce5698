"""The official OpenAI SDK, unmodified, through `ibex dev` and a socket, to a scripted OpenAI server."""

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
    """An SDK client that knows a base URL and a bound token, nothing else."""
    with openai.OpenAI(
        base_url=f"{provided_dev.address}/v1", api_key=provided_dev.installation["agent_token"], max_retries=0
    ) as sdk:
        yield sdk


def test_a_buffered_chat_is_answered(client: openai.OpenAI) -> None:
    """The SDK's model object has the text and the usage."""
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


def test_a_streamed_chat_hides_the_usage_that_the_client_did_not_ask_for(client: openai.OpenAI) -> None:
    """Every chunk has a choice, though the proxy asked upstream for usage."""
    with client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        chunks = list(stream)
    assert all(chunk.choices for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_a_streamed_chat_shows_the_usage_that_the_client_asked_for(client: openai.OpenAI) -> None:
    """The last chunk is the usage chunk."""
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_tools_are_passed_on_and_called(client: openai.OpenAI) -> None:
    """A tool call comes back as the SDK's type."""
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=tools)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls


def test_a_json_schema_response_format_is_passed_on(client: openai.OpenAI, upstream: ScriptedOpenAI) -> None:
    """The provider sees the schema as the client wrote it; the answer is JSON."""
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "animal", "schema": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, response_format=schema)
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    assert json.loads(upstream.requests[-1].body)["response_format"] == schema


def test_image_parts_are_passed_on(client: openai.OpenAI, upstream: ScriptedOpenAI) -> None:
    """The provider sees the parts as the client wrote them."""
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])
    assert json.loads(upstream.requests[-1].body)["messages"][-1]["content"] == parts


async def test_the_async_client_works_buffered_and_streamed(provided_dev: IbexDev) -> None:
    """AsyncOpenAI is answered like its sibling."""
    token = provided_dev.installation["agent_token"]
    async with openai.AsyncOpenAI(base_url=f"{provided_dev.address}/v1", api_key=token, max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
        assert answer.choices[0].message.content
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        assert [chunk async for chunk in stream]


def test_an_agent_named_in_a_default_header_works(provided_dev: IbexDev) -> None:
    """A token that is bound to no agent acts as the one that the header names."""
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
    """The SDK's list works, and any routed model can be looked up."""
    assert [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


class TestErrors:
    """The SDK raises the exception class that its users catch."""

    def test_400_of_the_proxy(self, client: openai.OpenAI) -> None:
        """A field that is wrong is BadRequestError and is named."""
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO, temperature=9)
        assert caught.value.code == "VALIDATION_ERROR"
        assert "temperature" in str(caught.value)

    def test_400_of_the_provider(self, client: openai.OpenAI, upstream: ScriptedOpenAI) -> None:
        """What the provider refuses is BadRequestError with the provider's words and code."""
        upstream.put(error(400, "too many tokens", code="context_length_exceeded", param="messages"))
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO)
        body: Any = caught.value.body
        assert body["code"] == caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"
        assert "too many tokens" in str(caught.value)

    def test_401(self, provided_dev: IbexDev) -> None:
        """An unknown token is AuthenticationError."""
        with (
            openai.OpenAI(base_url=f"{provided_dev.address}/v1", api_key="sk-not-ours", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.chat.completions.create(model=MODEL, messages=HELLO)
        assert caught.value.code == "INVALID_TOKEN"

    def test_403(self, client: openai.OpenAI) -> None:
        """Somebody else's agent is PermissionDeniedError."""
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.chat.completions.create(
                model=MODEL, messages=HELLO, extra_headers={"X-IBEX-Agent-ID": "01980000-0000-7000-8000-000000000000"}
            )
        assert caught.value.code == "AGENT_NOT_AUTHORIZED"

    def test_429_of_the_organization(self, provided_dev: IbexDev) -> None:
        """One request over the limit is RateLimitError with a Retry-After."""
        org = provided_dev.ibex_json("org", "create", "small", "--rpm", "1")["id"]
        agent = provided_dev.ibex_json("agent", "create", "one", "--org", org)["id"]
        token = provided_dev.ibex_json("token", "create", "--name", "t", "--org", org, "--agent", agent)["token"]

        def three_times(client: openai.OpenAI) -> None:  # a minute may turn between two of them, not twice
            for _ in range(3):
                client.chat.completions.create(model=MODEL, messages=HELLO)

        with (
            openai.OpenAI(base_url=f"{provided_dev.address}/v1", api_key=token, max_retries=0) as client,
            pytest.raises(openai.RateLimitError) as caught,
        ):
            three_times(client)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        assert caught.value.code == "RATE_LIMITED"

    def test_404_of_a_model(self, client: openai.OpenAI) -> None:
        """A model without a provider is NotFoundError with OpenAI's own code."""
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="not-routed", messages=HELLO)
        assert caught.value.code == "model_not_found"
        assert caught.value.response.headers["x-ibex-error-source"] == "proxy"

    def test_503(self, client: openai.OpenAI, upstream: ScriptedOpenAI) -> None:
        """A provider that keeps failing is InternalServerError of status 503 that SDKs do not retry."""
        upstream.put(*[error(500, "secret stack trace")] * 4)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=MODEL, messages=HELLO)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "secret stack trace" not in caught.value.response.text
