"""Parse requests and read responses of the Responses API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ibex.adapters.openai_api.responses_parser import responses_request_steps
from ibex.adapters.openai_api.server_sent_events import EventSplitter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ibex.adapters.openai_api.responses_request import ResponsesRequest
    from ibex.adapters.openai_api.responses_response import ResponsesReader


def parsed(body: bytes, path: str = "responses") -> ResponsesRequest:
    """Parse a request, in any number of steps."""
    steps = responses_request_steps(body, path)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            request: ResponsesRequest = done.value
            return request


def request_of(**members: Any) -> ResponsesRequest:
    """Parse a request with these members in addition to the model."""
    return parsed(json.dumps({"model": "gpt-5", **members}).encode())


def forwarded(reader: ResponsesReader, chunks: Iterable[bytes], max_event_bytes: int = 1 << 22) -> bytes:
    """Return the bytes that the reader forwards for a stream that arrives in these chunks."""
    splitter = EventSplitter(max_event_bytes)
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return b"".join([reader.read_event(event) for event in [*events, *splitter.finish()]])


def held_bytes(held: object, seen: set[int] | None = None) -> int:
    """Return the number of characters and bytes that an object references."""
    seen = set() if seen is None else seen
    if id(held) in seen:
        return 0
    seen.add(id(held))
    if isinstance(held, (bytes, bytearray, str)):
        return len(held)
    if isinstance(held, dict):
        return sum(held_bytes(value, seen) for value in held.values())
    return sum(held_bytes(value, seen) for value in getattr(held, "__dict__", {}).values())
