"""The built-in provider without a key."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from harness.chat_requests import summary_of
from harness.chat_scene import outgoing_request
from harness.memory.clock import ManualClock
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
    """Ask, and read the answer as OpenAI's SDK would."""
    answer = await provider.complete(request)
    assert isinstance(answer, ProviderBody)
    return ChatCompletion.model_validate_json(answer.body, strict=True)


async def streamed(provider: EchoProvider, request: ProviderRequest) -> list[ChatCompletionChunk]:
    """Ask, and read the stream's chunks as OpenAI's SDK would."""
    answer = await provider.complete(request)
    assert isinstance(answer, EchoStream)
    *data, done = [event.data or b"" for events in [events async for events in answer] for event in events]
    assert done == b"[DONE]"
    return [ChatCompletionChunk.model_validate_json(chunk, strict=True) for chunk in data]


async def test_it_repeats_the_last_user_message() -> None:
    """In the shape of a chat completion."""
    request = request_of(
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "first"},
        {"role": "user", "content": "Hello  there, äöü 🙂\n"},
        {"role": "assistant", "content": "yes"},
    )
    answer = await buffered(EchoProvider(ManualClock()), request)
    assert answer.choices[0].message.content == "Hello  there, äöü 🙂\n"
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == ("assistant", "stop")
    assert (answer.object, answer.created, answer.model) == ("chat.completion", NOW, "gpt-4o")
    assert (answer.system_fingerprint, answer.id[:9]) == ("echo", "chatcmpl-")


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
async def test_all_text_of_a_message_is_repeated_and_nothing_else(content: object, text: str) -> None:
    """Parts are joined; what is no text is left out, and what is odd is no error."""
    answer = await EchoProvider(ManualClock()).complete(request_of({"role": "user", "content": content}))
    assert isinstance(answer, ProviderBody)
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == text


async def test_without_a_user_message_the_answer_is_empty() -> None:
    """It is still an answer."""
    answer = await buffered(EchoProvider(ManualClock()), request_of({"role": "system", "content": "Be kind."}))
    assert answer.choices[0].message.content == ""


async def test_a_number_of_many_digits_in_a_message_is_no_error() -> None:
    """It is not a number that anyone computes with."""
    body = b'{"messages": [{"role": "user", "content": "a", "n": ' + b"9" * 10_000 + b"}]}"
    answer = await buffered(EchoProvider(ManualClock()), replace(outgoing_request(), body=body))
    assert answer.choices[0].message.content == "a"


async def test_tokens_are_words() -> None:
    """The prompt's are those of all messages, the completion's those of the answer."""
    request = request_of({"role": "system", "content": "You are kind."}, {"role": "user", "content": "Hello there "})
    answer = await buffered(EchoProvider(ManualClock()), request)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 3, 9)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


async def test_a_stream_has_a_chunk_for_each_word() -> None:
    """The role first, the finish reason last; the pieces joined are the text, blanks included."""
    chunks = await streamed(
        EchoProvider(ManualClock()), request_of({"role": "user", "content": "  One two\n\nthree "}, stream=True)
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.content for delta in deltas] == ["", "  One", " two", "\n\nthree", " ", None]
    assert [delta.role for delta in deltas] == ["assistant", None, None, None, None, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1


async def test_usage_comes_at_the_end_of_a_stream_that_asked_for_it() -> None:
    """In a chunk of its own without choices; every other chunk says that it has none."""
    message = {"role": "user", "content": "One two"}
    answer = await EchoProvider(ManualClock()).complete(request_of(message, stream=True, include_usage=True))
    assert isinstance(answer, EchoStream)
    *chunks, last = [json.loads(event.data or b"") async for (event,) in answer if event.data != b"[DONE]"]
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 4)


@pytest.mark.parametrize("include_usage", [None, False])
async def test_usage_does_not_come_unasked(*, include_usage: bool | None) -> None:
    """No chunk has such a member."""
    request = request_of({"role": "user", "content": "Hi"}, stream=True, include_usage=include_usage)
    assert all("usage" not in chunk.model_fields_set for chunk in await streamed(EchoProvider(ManualClock()), request))


async def test_a_stream_and_a_body_have_the_same_summary() -> None:
    """What the domain keeps of either is the same text, usage and end."""
    provider = EchoProvider(ManualClock())
    message = {"role": "user", "content": "Grüße an alle"}
    body = await provider.complete(request_of(message))
    stream = await provider.complete(request_of(message, stream=True, include_usage=True))
    assert isinstance(body, ProviderBody)
    assert isinstance(stream, EchoStream)
    fold = ChatResponseReader()
    kinds = [fold.read_data(event.data or b"") async for (event,) in stream]
    assert kinds[-2:] == [EventKind.USAGE_ONLY, EventKind.DONE]
    assert fold.summary() == summary_of(body.body)
    assert fold.summary().completion_hash is not None


async def test_each_answer_has_an_id_of_its_own() -> None:
    """Also at the same moment, and the provider's own id too."""
    provider = EchoProvider(ManualClock())
    answers = [await provider.complete(outgoing_request()) for _ in range(3)]
    assert len({json.loads(a.body)["id"] for a in answers if isinstance(a, ProviderBody)}) == 3
    assert len({answer.provider_request_id for answer in answers}) == 3


async def test_it_thinks_and_pauses_as_long_as_it_was_told() -> None:
    """Once before the answer, then between the events of a stream."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    provider = EchoProvider(ManualClock(), first_byte_delay_s=1.5, chunk_delay_s=0.25, sleep=sleep)
    await buffered(provider, outgoing_request())
    assert slept == [1.5]
    await streamed(provider, request_of({"role": "user", "content": "Hi"}, stream=True))
    assert slept == [1.5, 1.5, 0.25, 0.25, 0.25]


async def test_a_closed_stream_gives_no_more() -> None:
    """What its reader left is not made up later."""
    answer = await EchoProvider(ManualClock()).complete(outgoing_request(stream=True))
    assert isinstance(answer, EchoStream)
    events = aiter(answer)
    await anext(events)
    await answer.aclose()
    assert [event async for event in events] == []


def test_it_serves_the_models_it_was_given() -> None:
    """As the provider would whose place it takes."""
    assert EchoProvider(ManualClock(), ("my-*",)).models == ("my-*",)
    assert "gpt-*" in EchoProvider(ManualClock()).models
