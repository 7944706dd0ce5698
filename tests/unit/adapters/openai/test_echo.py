"""Tests of the echo provider."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from harness.chat_requests import summary_of
from harness.chat_scene import outgoing_request
from harness.memory.clock import ManualClock
from ibex.adapters.openai.config import DEFAULT_MODELS
from ibex.adapters.openai.echo import EchoProvider, EchoStream
from ibex.adapters.openai_api.chat_response import ChatResponseReader, EventKind
from ibex.domain.proxying.provider import ProviderBody, ProviderRequest

NOW = 1_767_323_045


def request_of(*messages: dict[str, Any], stream: bool = False, include_usage: bool | None = None) -> ProviderRequest:
    """Return a request with these messages."""
    asked = outgoing_request(stream=stream, include_usage=include_usage)
    body = json.dumps(json.loads(asked.body) | {"messages": messages}).encode()
    return replace(asked, body=body)


async def buffered(provider: EchoProvider, request: ProviderRequest) -> ChatCompletion:
    """Send a request, and parse the response as OpenAI's SDK does."""
    response = await provider.complete(request)
    assert isinstance(response, ProviderBody)
    return ChatCompletion.model_validate_json(response.body, strict=True)


async def streamed(provider: EchoProvider, request: ProviderRequest) -> list[ChatCompletionChunk]:
    """Send a request, and parse the chunks of the stream as OpenAI's SDK does."""
    response = await provider.complete(request)
    assert isinstance(response, EchoStream)
    *data, done = [event.data or b"" for events in [events async for events in response] for event in events]
    assert done == b"[DONE]"
    return [ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in data]


async def test_the_provider_repeats_the_last_user_message() -> None:
    """The response is a chat completion."""
    request = request_of(
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "first"},
        {"role": "user", "content": "Hello  there, äöü 🙂\n"},
        {"role": "assistant", "content": "yes"},
    )
    response = await buffered(EchoProvider(ManualClock()), request)
    assert response.choices[0].message.content == "Hello  there, äöü 🙂\n"
    assert (response.choices[0].message.role, response.choices[0].finish_reason) == ("assistant", "stop")
    assert (response.object, response.created, response.model) == ("chat.completion", NOW, "gpt-4o")
    assert (response.system_fingerprint, response.id[:9]) == ("echo", "chatcmpl-")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            [{"type": "text", "text": "a "}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}],
            "a b",
        ),
        ([], ""),
        (None, ""),
        ("", ""),
        (7, ""),
        (["text", {"type": "text"}, {"type": "text", "text": 5}], ""),
        ("lone \ud83d surrogate", "lone \ud83d surrogate"),
    ],
)
async def test_all_text_parts_of_a_message_are_repeated(content: object, text: str) -> None:
    """The parts are joined. Other parts are ignored, and malformed ones cause no error."""
    response = await EchoProvider(ManualClock()).complete(request_of({"role": "user", "content": content}))
    assert isinstance(response, ProviderBody)
    assert json.loads(response.body)["choices"][0]["message"]["content"] == text


async def test_a_request_without_a_user_message_has_an_empty_response() -> None:
    """The response is still a valid chat completion."""
    response = await buffered(EchoProvider(ManualClock()), request_of({"role": "system", "content": "Be kind."}))
    assert response.choices[0].message.content == ""


async def test_a_number_with_many_digits_in_a_message_is_accepted() -> None:
    """Python's limit on the digits of an integer does not apply."""
    body = b'{"messages": [{"role": "user", "content": "a", "n": ' + b"9" * 10_000 + b"}]}"
    response = await buffered(EchoProvider(ManualClock()), replace(outgoing_request(), body=body))
    assert response.choices[0].message.content == "a"


async def test_usage_counts_words_as_tokens() -> None:
    """Prompt tokens count the words of all messages, completion tokens those of the response."""
    request = request_of({"role": "system", "content": "You are kind."}, {"role": "user", "content": "Hello there "})
    response = await buffered(EchoProvider(ManualClock()), request)
    assert response.usage is not None
    assert (response.usage.prompt_tokens, response.usage.completion_tokens, response.usage.total_tokens) == (6, 3, 9)
    assert response.usage.prompt_tokens_details is not None
    assert response.usage.prompt_tokens_details.cached_tokens == 0


async def test_a_stream_has_a_chunk_for_each_word() -> None:
    """The role comes first and the finish reason last. The joined chunks are the text with its white space."""
    chunks = await streamed(
        EchoProvider(ManualClock()), request_of({"role": "user", "content": "  One two\n\nthree "}, stream=True)
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.content for delta in deltas] == ["", "  One", " two", "\n\nthree", " ", None]
    assert [delta.role for delta in deltas] == ["assistant", None, None, None, None, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1


async def test_a_stream_that_asks_for_usage_ends_with_it() -> None:
    """The last chunk has the usage and no choices. In all other chunks the usage is null."""
    message = {"role": "user", "content": "One two"}
    response = await EchoProvider(ManualClock()).complete(request_of(message, stream=True, include_usage=True))
    assert isinstance(response, EchoStream)
    *chunks, last = [json.loads(event.data or b"") async for (event,) in response if event.data != b"[DONE]"]
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 4)


@pytest.mark.parametrize("include_usage", [None, False])
async def test_a_stream_that_does_not_ask_for_usage_has_none(*, include_usage: bool | None) -> None:
    """No chunk has the member ``usage``."""
    request = request_of({"role": "user", "content": "Hi"}, stream=True, include_usage=include_usage)
    assert all("usage" not in chunk.model_fields_set for chunk in await streamed(EchoProvider(ManualClock()), request))


async def test_a_stream_and_a_body_have_the_same_summary() -> None:
    """Hash, usage and finish reason are equal."""
    provider = EchoProvider(ManualClock())
    message = {"role": "user", "content": "Grüße an alle"}
    body = await provider.complete(request_of(message))
    stream = await provider.complete(request_of(message, stream=True, include_usage=True))
    assert isinstance(body, ProviderBody)
    assert isinstance(stream, EchoStream)
    reader = ChatResponseReader()
    kinds = [reader.read_data(event.data or b"") async for (event,) in stream]
    assert kinds[-2:] == [EventKind.USAGE_ONLY, EventKind.DONE]
    assert reader.summary() == summary_of(body.body)
    assert reader.summary().completion_hash is not None


async def test_each_response_has_a_unique_id() -> None:
    """The ids differ even at the same time, and so does the provider's request id."""
    provider = EchoProvider(ManualClock())
    responses = [await provider.complete(outgoing_request()) for _ in range(3)]
    assert len({json.loads(a.body)["id"] for a in responses if isinstance(a, ProviderBody)}) == 3
    assert len({response.provider_request_id for response in responses}) == 3


async def test_the_configured_delays_are_applied() -> None:
    """The provider waits once before each response, and before each further event of a stream."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    provider = EchoProvider(ManualClock(), first_byte_delay_s=1.5, chunk_delay_s=0.25, sleep=sleep)
    await buffered(provider, outgoing_request())
    assert slept == [1.5]
    await streamed(provider, request_of({"role": "user", "content": "Hi"}, stream=True))
    assert slept == [1.5, 1.5, 0.25, 0.25, 0.25]


async def test_a_closed_stream_returns_no_more_events() -> None:
    """Iterating over the closed stream ends."""
    response = await EchoProvider(ManualClock()).complete(outgoing_request(stream=True))
    assert isinstance(response, EchoStream)
    events = aiter(response)
    await anext(events)
    await response.aclose()
    assert [event async for event in events] == []


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        (("gpt-4o*", "text-*"), ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]),
        (("mine", "gpt-4o", "gpt-*"), ["mine", "gpt-4o", "gpt-4o-mini"]),
        (("mine-*",), []),
    ],
)
async def test_the_list_of_models_contains_the_configured_names_and_examples_of_patterns(
    configured: tuple[str, ...], expected: list[str]
) -> None:
    """A pattern without a known example adds no name."""
    listed = await EchoProvider(ManualClock(), configured).list_models()
    assert [model.id for model in listed] == expected


async def test_the_list_of_models_contains_an_example_of_each_default_pattern() -> None:
    """No entry of the list is a pattern."""
    listed = [model.id for model in await EchoProvider(ManualClock()).list_models()]
    assert all(any(fnmatchcase(name, pattern) for name in listed) for pattern in DEFAULT_MODELS)
    assert not set(listed) & set(DEFAULT_MODELS)


def test_the_provider_serves_the_configured_models() -> None:
    """The echo provider has the models of the provider that it replaces."""
    assert EchoProvider(ManualClock(), ("my-*",)).models == ("my-*",)
    assert "gpt-*" in EchoProvider(ManualClock()).models
