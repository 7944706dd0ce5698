"""The stages of the Responses API, beside those of chat completions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from benchmarks.stages.scene import BODIES

from harness.chat_scene import DIRECTIVE
from harness.openai_responses import message_item, response_events, response_object
from harness.responses_requests import parsed
from ibex.adapters.openai_api.server_sent_events import EventSplitter
from ibex.domain.directives.model import InjectionMode
from ibex.domain.proxying.provider import Dialect

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from ibex.adapters.openai_api.responses_request import ResponsesRequest
    from ibex.domain.proxying.provider import StreamEvent

_DIALECT: Final = Dialect()
_request = pytest.mark.benchmark(group="2 request")
_answer = pytest.mark.benchmark(group="3 answer")

_DELTA: Final = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":7,'
    b'"item_id":"msg_67c9fdcf37fc8190ba82116e33fb28c507b8b0ad4e5eb654","output_index":0,"content_index":0,'
    b'"delta":" mountain","logprobs":[],"obfuscation":"aBcDeFg"}\n\n'
)
_SIZES: Final = {"1_kB": 10, "10_kB": 500}  # by the words of the response


def _body_of(size: str) -> bytes:
    """Return the body with the same messages as items of ``input``."""
    chat = json.loads(BODIES[size])
    request = {"model": chat["model"], "input": chat["messages"], "temperature": 0.2, "max_output_tokens": 256}
    return json.dumps(request, separators=(",", ":")).encode()


def _response(words: int) -> bytes:
    """Return a response as OpenAI writes it."""
    asked = {"model": "gpt-5", "instructions": f"{DIRECTIVE.text}\n\nAnswer in English."}
    return json.dumps(response_object(asked, [message_item("An ibex is a goat. " * words)])).encode()


def _last_event(words: int) -> StreamEvent:
    """Return the event that ends a stream."""
    last = response_events(json.loads(_response(words)), ["An ibex"])[-1]
    (event,) = EventSplitter().feed(last)
    return event


def _asked(*, restores: bool) -> ResponsesRequest:
    """Return the request, with or without a directive."""
    request = parsed(b'{"model":"gpt-5","input":"hi","instructions":"Answer in English."}')
    return request.with_directive(DIRECTIVE, _DIALECT) if restores else request


@_request
@pytest.mark.parametrize("size", BODIES)
def test_responses_read_request(benchmark: BenchmarkFixture, size: str) -> None:
    """Split the body and validate the members that IBEX reads."""
    assert benchmark(parsed, _body_of(size)).model == "gpt-4o"


@_request
@pytest.mark.parametrize("mode", InjectionMode)
def test_responses_inject_at_10_items(benchmark: BenchmarkFixture, mode: InjectionMode) -> None:
    """Inject the directive into the instructions and write the body again."""
    request, directive = parsed(_body_of("10_messages")), replace(DIRECTIVE, mode=mode)

    assert benchmark(request.with_directive, directive, _DIALECT).body != request.body


@_answer
def test_responses_split_and_fold_of_one_delta(benchmark: BenchmarkFixture) -> None:
    """Find the event in the received bytes, and read its text."""
    splitter, reader = EventSplitter(), _asked(restores=True).response_reader(_DIALECT)

    def take() -> bytes:
        return b"".join([reader.read_event(event) for event in splitter.feed(_DELTA)])

    assert benchmark(take) == _DELTA


@_answer
def test_responses_fold_of_one_delta(benchmark: BenchmarkFixture) -> None:
    """Read the text of an event that has been found."""
    (event,) = EventSplitter().feed(_DELTA)

    assert benchmark(_asked(restores=True).response_reader(_DIALECT).read_event, event) == _DELTA


@_answer
@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("restores", [False, True], ids=["as_it_is", "restoring_instructions"])
def test_responses_fold_of_the_last_event(benchmark: BenchmarkFixture, size: str, *, restores: bool) -> None:
    """Read status, usage and the id of the response, and restore the client's own instructions."""
    event, reader = _last_event(_SIZES[size]), _asked(restores=restores).response_reader(_DIALECT)

    assert (DIRECTIVE.text.encode() in benchmark(reader.read_event, event)) is not restores


@_answer
@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("restores", [False, True], ids=["as_it_is", "restoring_instructions"])
def test_responses_summarize_body(benchmark: BenchmarkFixture, size: str, *, restores: bool) -> None:
    """Read usage, status and hash from a buffered response, and restore the client's own instructions."""
    request, body = _asked(restores=restores), _response(_SIZES[size])

    assert (DIRECTIVE.text.encode() in benchmark(_summarized, request, body)) is not restores


def _summarized(request: ResponsesRequest, body: bytes) -> bytes:
    reader = request.response_reader(_DIALECT)
    forwarded = reader.read_body(body)
    assert reader.summary().finish_reason == "completed"
    return forwarded
