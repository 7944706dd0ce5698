"""Tests of the reader for responses that pass unchanged."""

from __future__ import annotations

from ibex.adapters.openai_api.plain_response import PlainResponseReader
from ibex.domain.proxying.provider import StreamEvent


def test_an_event_is_forwarded_unchanged() -> None:
    """A provider may stream a response although the client did not ask for a stream."""
    reader = PlainResponseReader()
    assert reader.read_event(StreamEvent(b"data: x\n\n", b"x")) == b"data: x\n\n"
    assert reader.error_event(b"{}") == b"data: {}\n\n"


def test_unreported_values_are_none() -> None:
    """An example is the usage of a list of input items."""
    reader = PlainResponseReader()
    body = b'{"object":"list","data":[],"usage":"none","model":5}'
    assert reader.read_body(body) == body
    assert (reader.summary().model, reader.summary().usage.input_tokens) == (None, None)
