"""OpenAI's client library with the HTTP surface: its exceptions, its messages and its retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from harness.chat_scene import AGENT, TOKEN, event
from harness.http_scene import HttpScene, scripted_stream, served
from ibex.domain.errors import (
    AgentNotAuthorizedError,
    IbexError,
    InvalidTokenError,
    ProviderNotConfiguredError,
    ServiceDegradedError,
)
from ibex.domain.provider_errors import (
    ProviderRateLimitedError,
    ProviderRefusal,
    ProviderRefusedError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from ibex.domain.proxying.provider import ProviderBody, ProviderModel

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

pytestmark = pytest.mark.integration

ANSWER = ProviderBody(
    b'{"id":"c1","object":"chat.completion","created":1,"model":"gpt-4o","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"Hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
HEL = event(
    b'{"id":"c1","object":"chat.completion.chunk","created":1,"model":"gpt-4o",'
    b'"choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}'
)
TOO_LONG = ProviderRefusedError(
    ProviderRefusal.BAD_REQUEST,
    detail="This model's maximum context length is 8 tokens.",
    provider_type="invalid_request_error",
    provider_code="context_length_exceeded",
    param="messages",
)


def sdk(url: str) -> openai.AsyncOpenAI:
    """Return a client with the base URL and the key of IBEX."""
    return openai.AsyncOpenAI(
        api_key=TOKEN.reveal(), base_url=f"{url}/v1", default_headers={"X-IBEX-Agent-ID": str(AGENT)}
    )


async def test_the_sdk_gets_completions_and_models() -> None:
    """Users change only the base URL and the key."""
    scene = HttpScene(ANSWER)
    scene.chat.provider.listed = [ProviderModel("gpt-4o", 1_715_367_049, "system"), ProviderModel("gpt-*")]
    async with served(scene.app()) as (url, _), sdk(url) as client:
        completion = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        models = [model async for model in client.models.list()]
        model = await client.models.retrieve("gpt-4o")
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.models.retrieve("gpt-5")

    assert completion.choices[0].message.content == "Hi"
    assert models == [model]
    assert (model.id, model.object, model.created, model.owned_by) == ("gpt-4o", "model", 1_715_367_049, "system")
    assert unknown.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("error", "expected", "code", "message"),
    [
        (TOO_LONG, openai.BadRequestError, "context_length_exceeded", "This model's maximum context length is 8"),
        (
            ProviderRefusedError(ProviderRefusal.PAYMENT_REQUIRED),
            openai.APIStatusError,
            "INVALID_REQUEST",
            "provider refused",
        ),
        (
            ProviderRefusedError(ProviderRefusal.MODEL_FORBIDDEN, provider_code="model_not_found"),
            openai.PermissionDeniedError,
            "model_not_found",
            "provider refused",
        ),
        (
            ProviderRefusedError(ProviderRefusal.NOT_FOUND, detail="No such model."),
            openai.NotFoundError,
            "INVALID_REQUEST",
            "No such model.",
        ),
        (
            ProviderRefusedError(ProviderRefusal.CONFLICT, attempts=4),
            openai.ConflictError,
            "INVALID_REQUEST",
            "refused",
        ),
        (ProviderRefusedError(ProviderRefusal.TOO_LARGE), openai.APIStatusError, "INVALID_REQUEST", "provider refused"),
        (
            ProviderRefusedError(ProviderRefusal.UNPROCESSABLE),
            openai.UnprocessableEntityError,
            "INVALID_REQUEST",
            "refused",
        ),
        (ProviderRateLimitedError(retry_after_s=1, attempts=4), openai.RateLimitError, "RATE_LIMITED", "rate limit"),
        (
            ProviderRateLimitedError(provider_code="insufficient_quota", is_hopeless=True),
            openai.RateLimitError,
            "insufficient_quota",
            "rate limit",
        ),
        (ProviderUnavailableError(attempts=4), openai.InternalServerError, "PROVIDER_UNAVAILABLE", "not available"),
        (ProviderTimeoutError(attempts=2), openai.InternalServerError, "PROVIDER_TIMEOUT", "in time"),
        (ProviderNotConfiguredError(), openai.NotFoundError, "model_not_found", "GET /v1/models"),
    ],
)
async def test_a_provider_error_raises_the_right_exception_without_a_retry(
    error: IbexError, expected: type[openai.APIStatusError], code: str, message: str
) -> None:
    """The SDK raises the class for the status and shows the useful message."""
    scene = HttpScene(error)
    async with served(scene.app()) as (url, _), sdk(url) as client:
        with pytest.raises(expected) as raised:
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    assert type(raised.value) is expected
    assert message in raised.value.message
    assert raised.value.code == code
    assert len(scene.chat.provider.asked) == 1
    assert raised.value.request_id is not None


async def test_the_sdk_exposes_the_providers_code_and_param() -> None:
    """Libraries read them from the body."""
    async with served(HttpScene(TOO_LONG).app()) as (url, _), sdk(url) as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    assert isinstance(raised.value.body, dict)
    assert raised.value.code == raised.value.body["code"] == "context_length_exceeded"
    assert (raised.value.param, raised.value.type) == ("messages", "invalid_request_error")


async def test_refusals_of_the_proxy_raise_the_right_exceptions() -> None:
    """401 raises AuthenticationError and 403 raises PermissionDeniedError."""
    unknown, foreign = HttpScene(), HttpScene()
    unknown.chat.tokens.answer = InvalidTokenError()
    foreign.chat.agents.answer = AgentNotAuthorizedError()
    async with served(unknown.app()) as (url, _), sdk(url) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    async with served(foreign.app()) as (url, _), sdk(url) as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


async def test_a_base_url_without_v1_is_explained_in_the_message() -> None:
    """The message, which is all that the SDK shows, lists the endpoints."""
    async with served(HttpScene(ANSWER).app()) as (url, _), sdk(url).with_options(base_url=url) as client:
        with pytest.raises(openai.NotFoundError, match="The endpoints are POST /v1/chat/completions"):
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


async def test_the_sdk_retries_a_short_outage_of_ibex() -> None:
    """A 503 of IBEX itself permits a retry and has a retry delay."""
    scene = HttpScene(ANSWER)
    scene.chat.directives.answer = ServiceDegradedError()
    asked = scene.chat.directives.asked

    def recover() -> None:
        if len(asked) > 1:
            scene.chat.directives.answer = None

    scene.chat.directives.on_asked = recover
    async with served(scene.app()) as (url, _), sdk(url) as client:
        completion = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    assert completion.choices[0].message.content == "Hi"
    assert len(asked) == 2


async def test_a_stream_that_fails_raises_in_the_sdk() -> None:
    """The SDK returns the first chunk and then raises the error. A plain end would look like success."""
    scene = HttpScene(scripted_stream([HEL], ProviderUnavailableError()))
    async with served(scene.app()) as (url, _), sdk(url) as client:
        chunks = aiter(await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
        first = await anext(chunks)
        with pytest.raises(openai.APIError) as raised:
            await anext(chunks)

    assert first.choices[0].delta.content == "Hel"
    assert raised.value.code == "PROVIDER_UNAVAILABLE"
    assert "not available" in raised.value.message
