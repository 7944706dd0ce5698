"""Tests that events that match a chunk template give the same results as parsed events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.adapters.openai_api import chat_response
from ibex.adapters.openai_api.chat_response import ChatResponseReader, EventKind
from ibex.adapters.openai_api.chunk_template import ChunkTemplate, chunk_template_of

if TYPE_CHECKING:
    from ibex.domain.record.summary import ResponseSummary

TEXTS = st.text(st.sampled_from('ab ü€\U0001f9cc"\\\n\x00\ud83e\udd8c{}'), max_size=4)
CUTS = st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3))


def chunk(text: str, *, padding: str | None = "aX7", ascii_only: bool = False, **members: Any) -> bytes:
    """Return an event in OpenAI's format."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    event = {"id": "chatcmpl-1", "model": "m-1", "choices": [choice | members], "usage": None}
    padded = event if padding is None else event | {"obfuscation": padding}
    return json.dumps(padded, separators=(",", ":"), ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def summary_and_kinds(events: list[bytes]) -> tuple[ResponseSummary, list[EventKind]]:
    """Return the summary of a stream and the kinds of its events."""
    reader = ChatResponseReader()
    kinds = [reader.read_data(event) for event in events]
    return reader.summary(), kinds


def parsed(events: list[bytes]) -> tuple[ResponseSummary, list[EventKind]]:
    """Return the same without templates: each event ends with a different number of spaces."""
    return summary_and_kinds([event + b" " * number for number, event in enumerate(events, 1)])


@given(st.lists(st.builds(chunk, TEXTS, padding=st.none() | st.text("abc7", max_size=3), ascii_only=st.booleans())))
def test_a_stream_of_matching_events_has_the_summary_of_parsed_events(events: list[bytes]) -> None:
    """Texts and padding are arbitrary."""
    assert summary_and_kinds(events) == parsed(events)


@given(st.text("ab ü", min_size=1, max_size=3), st.lists(st.tuples(TEXTS, CUTS), max_size=6))
def test_a_stream_of_almost_matching_events_has_the_summary_of_parsed_events(
    first: str, others: list[tuple[str, tuple[int, int, bytes]]]
) -> None:
    """Some bytes differ, so that an event is not JSON or has another meaning."""
    events = [chunk(first)]
    for text, (at, removed, put) in others:
        event = chunk(text)
        begin = at % len(event)
        events += (event[:begin] + put + event[begin + removed :], chunk(text))

    assert summary_and_kinds(events) == parsed(events)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (chunk("Hi"), "Hi"),
        (chunk("Hi", padding="longer"), "Hi"),
        (chunk("Hi", padding=""), "Hi"),
        (chunk("Hi ü€"), "Hi ü€"),
        (chunk(""), ""),
        (chunk("Hi", padding=None), None),
        (chunk("Hi", padding='"'), None),
        (chunk('"'), None),
        (chunk("\n"), None),
        (chunk("Hi", index=1), None),
        (chunk("Hi", finish_reason="stop"), None),
        (chunk("Hi").replace(b"Hi", b"\xff"), None),
        (chunk("Hi").replace(b"Hi", b"\x01"), None),
        (chunk("Hi") + b" ", None),
        (chunk("Hi")[:-1], None),
    ],
)
def test_only_events_that_differ_in_text_or_padding_match(event: bytes, expected: str | None) -> None:
    """The template returns their text without parsing the event."""
    template = chunk_template_of(chunk("Well"), "Well")

    assert template is not None
    assert template.text_of(event) == expected


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (b'{"choices":[{"index":0,"delta":{"content": "Hi"}}]}', "Hi"),
        (b'{"x":{"content":"Hi"},"choices":[{"index":0,"delta":{"content":"Hi"}}]}', "Hi"),
        (b'{"choices":[{"index":0,"delta":{"a\\"content":"Hi","content":"Hi"}}]}', "Hi"),
        (b'{"choices":[{"index":0,"delta":{"content":"H\\u0069"}}]}', "Hi"),
        (b'{"choices":[{"index":0,"delta":{"content":"Hi, there"}}]}', "Hi"),
    ],
)
def test_an_event_with_an_ambiguous_text_position_has_no_template(event: bytes, text: str) -> None:
    """It is uncertain which bytes of the event are the text."""
    assert chunk_template_of(event, text) is None


def test_a_text_with_escapes_keeps_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this event is parsed. The events after it match the earlier template."""
    were_parsed: list[bytes] = []

    def look_and_tell(event: bytes, text: str) -> ChunkTemplate | None:
        were_parsed.append(event)
        return chunk_template_of(event, text)

    monkeypatch.setattr(chat_response, "chunk_template_of", look_and_tell)

    summary_and_kinds([chunk("Hi"), chunk("\n"), chunk("there"), chunk('"'), chunk("Bye")])

    assert were_parsed == [chunk("Hi"), chunk("\n"), chunk('"')]


def test_the_last_model_counts_after_a_change_and_a_change_back() -> None:
    """An event with the last model would match an earlier template."""
    events = [chunk("Hi"), chunk("").replace(b"m-1", b"m-2"), chunk("there")]

    assert summary_and_kinds(events) == parsed(events)
    assert summary_and_kinds(events)[0].model == "m-1"
