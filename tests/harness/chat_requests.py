"""Parse chat completions, inject directives and read responses synchronously, without an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.adapters.openai_api.chat_parser import chat_request_steps
from ibex.adapters.openai_api.chat_response import ChatResponseReader
from ibex.domain.proxying.provider import Dialect

if TYPE_CHECKING:
    from ibex.adapters.openai_api.chat_request import ChatRequest
    from ibex.domain.directives.model import Directive
    from ibex.domain.record.summary import ResponseSummary


def parse(body: bytes) -> ChatRequest:
    """Return the request that a body is. Raises what ``ChatCompletions.parse`` raises."""
    steps = chat_request_steps(body)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            request: ChatRequest = done.value
            return request


def inject(request: ChatRequest, directive: Directive | None, *, merges: bool = False) -> ChatRequest:
    """Return the request with the directive injected; the request itself if there is no directive."""
    return request if directive is None else request.with_directive(directive, Dialect(merges_instructions=merges))


def summary_of(body: bytes) -> ResponseSummary:
    """Return the summary of a buffered response. Raises ``MalformedResponseError``."""
    reader = ChatResponseReader()
    assert reader.read_body(body) is body
    return reader.summary()
