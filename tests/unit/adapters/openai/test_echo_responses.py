"""Tests of the echo provider in the format of the Responses API, and of its embeddings."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from harness.memory.clock import ManualClock
from harness.responses_requests import forwarded
from ibex.adapters.openai.echo import EchoProvider, EchoStream
from ibex.adapters.openai_api.responses_response import ResponsesReader
from ibex.domain.proxying.provider import ProviderBody, ProviderRequest

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def request_of(operation: str = "responses", *, stream: bool = False, **members: Any) -> ProviderRequest:
    """Return a request with these members."""
    body = json.dumps({"model": "gpt-5", **members}).encode()
    return ProviderRequest(operation, operation, "gpt-5", stream, body)


async def body_of(request: ProviderRequest) -> bytes:
    """Return the answer to a buffered request."""
    answer = await EchoProvider(ManualClock()).complete(request)
    assert isinstance(answer, ProviderBody)
    return answer.body


@pytest.mark.parametrize(
    "given",
    [
        "Hello  there",
        [{"role": "user", "content": "first"}, {"role": "user", "content": "Hello  there"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello  there"}]}],
        [{"role": "user", "content": "Hello  there"}, {"type": "function_call_output", "output": "x"}],
    ],
)
async def test_the_provider_repeats_the_last_user_message(given: object) -> None:
    """The response is an object of the Responses API."""
    response = Response.model_validate_json(await body_of(request_of(input=given, instructions="Be kind.")))

    assert (response.output_text, response.status, response.model) == ("Hello  there", "completed", "gpt-5")
    assert response.instructions == "Be kind."
    assert response.usage is not None
    assert response.usage.output_tokens == 2
    assert response.usage.input_tokens >= 4


async def test_a_stream_has_typed_events() -> None:
    """There is one event for each word. The last event contains the whole response."""
    answer = await EchoProvider(ManualClock()).complete(request_of(input="one two three", stream=True))
    assert isinstance(answer, EchoStream)
    raw = [event.raw async for events in answer for event in events]
    events = [EVENT.validate_json(event.partition(b"data: ")[2]) for event in raw]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["one", " two", " three"]
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "one two three"
    reader = ResponsesReader()
    forwarded(reader, raw)
    assert (reader.has_ended, reader.summary().usage.output_tokens) == (True, 3)


async def test_the_provider_counts_input_tokens() -> None:
    """The count includes the tokens of the instructions."""
    body = await body_of(request_of("responses.input_tokens", input="one two", instructions="three"))
    assert json.loads(body) == {"object": "response.input_tokens", "input_tokens": 3}


async def test_equal_texts_have_equal_embeddings() -> None:
    """This applies to both formats, floats and base64."""
    floats = CreateEmbeddingResponse.model_validate_json(await body_of(request_of("embeddings", input=["a", "b", "a"])))
    packed = json.loads(await body_of(request_of("embeddings", input="a", encoding_format="base64")))

    first, second, third = (item.embedding for item in floats.data)
    assert first == third != second
    decoded = struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))
    assert list(decoded) == pytest.approx(first)
    assert floats.usage.prompt_tokens == 3
