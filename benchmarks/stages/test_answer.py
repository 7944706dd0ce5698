"""The stages from the provider's bytes to the client's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks.stages.scene import exchange_of_a_request

from harness.chat_requests import summary_of
from harness.chat_scene import REQUEST_ID, TRACE_ID
from ibex.adapters.http_server.context import RequestContext
from ibex.adapters.http_server.errors import ErrorResponses
from ibex.adapters.http_server.exchange_headers import exchange_headers
from ibex.adapters.openai_api.chat_response import ChatResponseReader, EventKind
from ibex.adapters.openai_api.server_sent_events import EventSplitter
from ibex.adapters.system.clock import SystemClock
from ibex.domain.errors import FieldCode, FieldError, ValidationError

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.benchmark(group="3 answer")

_EVENT = (
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_fc9f1d7035",'
    b'"choices":[{"index":0,"delta":{"content":" mountain"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
_BODY = (
    b'{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1741569952,'
    b'"model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"'
    + b"An ibex is a goat. "
    * 10
    + b'","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,'
    b'"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}},"service_tier":"default"}'
)


def test_sse_split_and_fold_of_one_event(benchmark: BenchmarkFixture) -> None:
    """Find the event in the received bytes, and read its text, finish reason and usage."""
    splitter, fold = EventSplitter(), ChatResponseReader()

    def take() -> EventKind | None:
        kind = None
        for event in splitter.feed(_EVENT):
            kind = fold.read_data(event.data) if event.data is not None else None
        return kind

    assert benchmark(take) is EventKind.DATA


def test_summarize_body(benchmark: BenchmarkFixture) -> None:
    """Read usage, finish reason and hash from a buffered response."""
    assert benchmark(summary_of, _BODY).finish_reason == "stop"


def test_exchange_headers(benchmark: BenchmarkFixture) -> None:
    """Build the response headers about the request, including Server-Timing."""
    assert benchmark(exchange_headers, exchange_of_a_request(SystemClock()))


def test_error_envelope(benchmark: BenchmarkFixture) -> None:
    """Build the response to a request with one invalid field."""
    answers = ErrorResponses(SystemClock(), "https://ibex.example/errors")
    error = ValidationError((FieldError("model", FieldCode.REQUIRED, "is required"),))
    context = RequestContext(REQUEST_ID, TRACE_ID, 0, {})

    assert benchmark(answers.response, error, context).status == 400
