"""Tests of the lenient end: an end of a stream without a finish reason and ``[DONE]``."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibex.adapters.openai_api.chat_response import ChatResponseReader
from ibex.adapters.openai_api.lenient_end import MAX_ARGUMENTS_BYTES, MAX_TOOL_CALLS, LenientEnd
from ibex.domain.proxying.provider import StreamEvent


def call(arguments: object, index: object = 0, call_id: object = None) -> dict[str, Any]:
    """Return a delta with a part of a tool call."""
    return {"tool_calls": [{"index": index, "id": call_id, "function": {"arguments": arguments}}]}


def is_reached(*deltas: dict[str, Any], has_text: bool = False) -> bool:
    """Return whether a stream of these deltas of one choice may end."""
    end = LenientEnd()
    for delta in deltas:
        end.read_delta(0, delta)
    return end.is_reached(has_text=has_text)


def test_a_lenient_end_requires_text_or_a_tool_call() -> None:
    """Either of them is enough."""
    assert not is_reached()
    assert is_reached(has_text=True)
    assert is_reached(call("{}"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), JSON, max_size=3), st.booleans(), st.lists(st.integers(0, 1_000), max_size=6))
def test_arguments_are_complete_with_their_last_character(
    arguments: dict[str, Any],
    escapes: bool,  # noqa: FBT001
    cuts: list[int],
) -> None:
    """This holds for any split into deltas."""
    text = json.dumps(arguments, ensure_ascii=escapes)
    places = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    deltas = [call(text[start:end]) for start, end in itertools.pairwise(places)]

    assert is_reached(*deltas)
    assert is_reached(*deltas, has_text=True)
    assert not is_reached(*deltas[:-1], call(text[places[-2] : -1]), has_text=True)


def test_every_call_must_be_complete() -> None:
    """Choice, index and id distinguish calls, because some servers give all calls the same index."""
    assert is_reached(call('{"a"', 0), call("{}", 1), call(":1}", 0))
    assert not is_reached(call('{"a"', 0), call("{}", 1))
    assert is_reached(call('{"a"', 0, "x"), call(":1}", 0, "x"), call("{", 0, "y"), call("}", 0, ""), call("", 0, None))
    assert not is_reached(call('{"a"', 0, "x"), call("{}", 0, "y"))
    assert is_reached(call('{"a"', None, "x"), call(":1}", None), call("{}", None, "y"))

    end = LenientEnd()
    end.read_delta(0, call("{}"))
    end.read_delta(1, call("{"))
    assert not end.is_reached(has_text=False)
    end.read_delta(1, call("}"))
    assert end.is_reached(has_text=False)


def test_the_older_form_of_a_tool_call_is_read() -> None:
    """The member is ``function_call``, which a choice has at most once."""
    assert is_reached({"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}})
    assert not is_reached({"function_call": {"name": "f", "arguments": ""}}, has_text=True)


@pytest.mark.parametrize("arguments", ["", "{", '{"a":1}}', "{} {}", "[" * 100_000, "nothing", None, {"a": 1}])
def test_arguments_that_are_not_json_are_incomplete(arguments: object) -> None:
    """Parsing them takes a bounded time."""
    assert not is_reached(call(arguments), has_text=True)


@pytest.mark.parametrize("text", ['"\\ud83d"', '"\ud83d"', "9" * 10_000])
def test_unusual_json_arguments_are_complete(text: str) -> None:
    """Lone surrogates and numbers with many digits are valid."""
    assert is_reached(call('{"a":'), call(text), call("}"))


@given(st.lists(st.dictionaries(st.sampled_from(["tool_calls", "function_call"]), JSON, max_size=2), max_size=3))
def test_arbitrary_deltas_raise_no_error(deltas: list[dict[str, Any]]) -> None:
    """An error in the reader must not interrupt the forwarding of a stream."""
    is_reached(*deltas)
    is_reached({"tool_calls": [None, 1, {}, {"index": [], "id": {}, "function": []}]})


def test_the_kept_arguments_are_bounded() -> None:
    """With more than a mebibyte of arguments, or too many calls, the stream is incomplete."""
    most = '"' + "x" * (MAX_ARGUMENTS_BYTES - 2) + '"'
    assert is_reached(call(most))
    assert not is_reached(call(most), call(""), call("{}", 1), has_text=True)
    assert not is_reached(call('"' + "ä" * (MAX_ARGUMENTS_BYTES // 2) + '"'), has_text=True)
    assert is_reached(*(call("{}", n) for n in range(MAX_TOOL_CALLS)))
    assert not is_reached(*(call("{}", n) for n in range(MAX_TOOL_CALLS + 1)), has_text=True)


@pytest.mark.parametrize(
    ("raw", "was_read"),
    [
        (b": comment\n\n", True),
        (b": comment\n", True),
        (b"\n", True),
        (b"", True),
        (b"event: ping\r\nid: 1\r\rretry: 5\n\n", True),
        (b": comm", False),
        (b"event: ping\ndata", False),
        (b"data: x\n", False),
        (b"data: x\n\n", False),
        (b"id: 1\r\ndata: x", False),
        (b"x" * (1 << 20), False),
    ],
)
def test_an_unread_part_of_the_stream_prevents_a_lenient_end(raw: bytes, was_read: bool) -> None:  # noqa: FBT001
    """It may have contained text. Complete lines without data cannot, so they have no effect."""
    end = LenientEnd()
    end.read_without_data(raw)
    assert end.is_reached(has_text=True) is was_read


def chunk_of(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """Return the data of an event with a delta."""
    event = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    return json.dumps(event, separators=(",", ":")).encode()  # compact, so that chunk templates match


def text(content: str | None) -> bytes:
    """Return the data of an event with a part of a text."""
    return chunk_of({"content": content})


def tool_call(arguments: str) -> bytes:
    """Return the data of an event with a part of a tool call."""
    return chunk_of(call(arguments))


def ends(*events: bytes | None, lenient: bool = True, raw: bytes = b": comment\n\n") -> bool:
    """Return whether a stream of events with these data may end after the last one."""
    reader = ChatResponseReader(has_lenient_end=lenient)
    for data in events:
        reader.read_event(StreamEvent(raw, data))
    return reader.is_complete


@pytest.mark.parametrize(
    "events",
    [
        (text("Hel"), text("lo"), text("!")),
        (tool_call('{"city":'), tool_call('"Paris"}')),
        (text("Let me see."), tool_call("{}")),
        (text("text"), None),
    ],
)
def test_a_lenient_end_comes_after_text_or_whole_tool_calls(events: tuple[bytes | None, ...]) -> None:
    """If the provider's dialect allows it, such a stream may end without a finish reason."""
    assert ends(*events)
    assert not ends(*events, lenient=False)


def test_all_tool_calls_beside_a_text_are_read() -> None:
    """This includes events that differ only in their text, which otherwise match a template and are not parsed."""
    assert ends(*(chunk_of({"content": f"text {n}"} | call(part)) for n, part in enumerate(("[", "[", "]]"))))


@pytest.mark.parametrize(
    "events",
    [
        (),
        (text(""), text(None)),
        (tool_call('{"city":'),),
        (text("Let me see."), tool_call('{"city":')),
        (b'{"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}',),
        (b'{"choices":[],"usage":{"total_tokens":1}}',),
    ],
)
def test_no_lenient_end_comes_before_the_stream_is_usable(events: tuple[bytes, ...]) -> None:
    """Reasoning or a part of a tool call is not enough. A finish reason still completes the stream."""
    assert not ends(*events)
    assert ends(*events, chunk_of({}, finish_reason="length"))


@pytest.mark.parametrize("raw", [b"data: {", b"dat", b"event: x", b"x" * 100, b'data: {"choices":[]}\n'])
def test_no_lenient_end_comes_after_an_unread_event(raw: bytes) -> None:
    """The event is incomplete or too large, so the text may continue in it."""
    assert not ends(text("text"), None, raw=raw)
    assert ends(text("text"), None, chunk_of({}, finish_reason="stop"), raw=raw)
