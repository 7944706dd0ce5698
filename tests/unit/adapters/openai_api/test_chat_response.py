"""Tests of the reader for chat completion responses."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.chat_requests import summary_of
from ibex.adapters.openai_api.chat_response import ChatResponseReader, EventKind
from ibex.domain.proxying.operation import MalformedResponseError
from ibex.domain.proxying.provider import StreamEvent
from ibex.domain.record.summary import ResponseSummary, Usage

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


def sha(text: str) -> str:
    """Return the SHA-256 of the UTF-8 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def body_of(*texts: str | None, **members: Any) -> bytes:
    """Return a buffered response with one choice for each text."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    return json.dumps({"model": "m-1", "choices": choices} | members).encode()


def chunk_of(text: str | None, index: int = 0, finish_reason: str | None = None) -> bytes:
    """Return the data of a stream event with one part of a text."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish_reason}
    return json.dumps({"model": "m-1", "choices": [choice], "usage": None}).encode()


def streamed_summary(*events: bytes) -> ResponseSummary:
    """Return the summary of a stream."""
    reader = ChatResponseReader()
    for event in events:
        reader.read_data(event)
    return reader.summary()


def utf16_pieces(text: str, cuts: list[int]) -> list[str]:
    """Cut a text between any two UTF-16 code units, as servers in JavaScript do."""
    units = text.encode("utf-16-le", "surrogatepass")
    edges = [0, *sorted({2 * (cut % (len(units) // 2 + 1)) for cut in cuts}), len(units)]
    return [units[start:end].decode("utf-16-le", "surrogatepass") for start, end in itertools.pairwise(edges)]


@given(ANY_TEXT, st.lists(st.integers(0, 200), max_size=8))
def test_a_stream_has_the_hash_of_the_buffered_response(text: str, cuts: list[int]) -> None:
    """The text may be cut anywhere, even within a surrogate pair."""
    pieces = [chunk_of(piece) for piece in utf16_pieces(text, cuts)]

    assert streamed_summary(*pieces).completion_hash == summary_of(body_of(text)).completion_hash


@given(st.lists(st.tuples(st.integers(0, 3), st.text(min_size=1, max_size=5)), min_size=1, max_size=20))
def test_interleaved_choices_are_hashed_separately(pieces: list[tuple[int, str]]) -> None:
    """The hash of several choices is the hash of their hashes in the order of their index."""
    texts: dict[int, str] = {}
    for index, piece in pieces:
        texts[index] = texts.get(index, "") + piece
    hashes = [sha(texts[index]) for index in sorted(texts)]
    expected = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    assert streamed_summary(*(chunk_of(piece, index) for index, piece in pieces)).completion_hash == expected


def test_several_buffered_choices_have_one_hash() -> None:
    """The rule is the same as for streams."""
    expected = hashlib.sha256((sha("one") + sha("two")).encode()).hexdigest()

    assert summary_of(body_of("one", "two")).completion_hash == expected


def test_the_hash_covers_the_text_in_utf_8() -> None:
    """Anyone can compute it from the text alone."""
    assert summary_of(body_of("Grüße 😀")).completion_hash == hashlib.sha256("Grüße 😀".encode()).hexdigest()


@pytest.mark.parametrize("content", ["\ud83d", "a\udfff"])
def test_lone_surrogates_are_hashed(content: str) -> None:
    """They raise no error."""
    assert summary_of(body_of(content)).completion_hash == sha(content)
    assert streamed_summary(chunk_of(content), chunk_of("b")).completion_hash == sha(content + "b")


def test_a_summary_before_the_end_covers_the_text_so_far() -> None:
    """It does not affect later summaries."""
    reader = ChatResponseReader()
    reader.read_data(chunk_of("a\ud83d"))

    assert reader.summary().completion_hash == sha("a\ud83d")
    reader.read_data(chunk_of("\ude00"))
    assert reader.summary().completion_hash == sha("a😀")


@pytest.mark.parametrize(
    "body",
    [
        body_of(None),
        body_of(""),
        body_of(),
        b'{"choices":[{"index":0,"message":{"tool_calls":[{"id":"1"}],"content":null},"finish_reason":"tool_calls"}]}',
        b'{"choices":[{"message":{"content":[{"type":"text","text":"a"}]}}]}',
        b'{"choices":[{"message":null},null,7,[]]}',
        b'{"choices":{"0":1}}',
        b"{}",
    ],
)
def test_a_response_without_text_has_no_hash(body: bytes) -> None:
    """Examples are tool calls, empty texts and unknown formats. They raise no error."""
    assert summary_of(body).completion_hash is None


def test_tool_calls_with_a_finish_reason_complete_a_stream() -> None:
    """A stream of tool calls has no text."""
    reader = ChatResponseReader()
    reader.read_data(b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}]}')
    assert not reader.is_complete
    reader.read_data(b'{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}')

    assert reader.is_complete
    assert reader.summary() == ResponseSummary(finish_reason="tool_calls")


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"text"', b"7", b"<html>", b"{", b'{"a":1} {}', b"\xff\xfe", b'{"a":"\xff"}', b"[" * 10**5],
)
def test_a_body_that_is_not_an_object_is_malformed(body: bytes) -> None:
    """The reader raises no other error, and takes a bounded time."""
    with pytest.raises(MalformedResponseError):
        summary_of(body)


@pytest.mark.parametrize("error", [{"message": "no", "code": None}, "no", ["no"], 1])
def test_a_body_that_is_an_error_is_malformed(error: object) -> None:
    """A 200 with an error in its body is not a success."""
    with pytest.raises(MalformedResponseError):
        summary_of(body_of("text", error=error))


def test_an_error_that_is_null_is_ignored() -> None:
    """Some servers always send the member."""
    assert summary_of(body_of("text", error=None)).completion_hash == sha("text")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[DONE]", EventKind.DONE),
        (b"[DONE] ", EventKind.DONE),
        (b"[done]", EventKind.DATA),
        (b"", EventKind.DATA),
        (b"{", EventKind.DATA),
        (b"[]", EventKind.DATA),
        (b"{" * 10**5, EventKind.DATA),
        (b'{"choices":' + b"[" * 10**5, EventKind.DATA),
        (b'{"n":' + b"9" * 10**5 + b"}", EventKind.DATA),
        (b'{"choices":[],"usage":{"total_tokens":1}}', EventKind.USAGE_ONLY),
        (b'{"choices":[],"usage":{}}', EventKind.USAGE_ONLY),
        (b'{"choices":[],"usage":null}', EventKind.DATA),
        (b'{"choices":[],"prompt_filter_results":[]}', EventKind.DATA),
        (b'{"usage":{"total_tokens":1}}', EventKind.DATA),
        (b'{"choices":null,"usage":{"total_tokens":1}}', EventKind.DATA),
        (b'{"choices":[{}],"usage":{"total_tokens":1}}', EventKind.DATA),
        (b'{"error":{"message":"no"}}', EventKind.ERROR),
        (b'{"error":"no","choices":[],"usage":{"total_tokens":1}}', EventKind.ERROR),
        (b'{"error":{}}', EventKind.ERROR),
        (b'{"object":"error","message":"no"}', EventKind.ERROR),
        (b'{"error":null,"choices":[]}', EventKind.DATA),
        (b'{"error":"","choices":[]}', EventKind.DATA),
    ],
)
def test_the_content_of_an_event_decides_its_kind(data: bytes, kind: EventKind) -> None:
    """An unknown event is data and is forwarded."""
    reader = ChatResponseReader()

    assert reader.read_data(data) is kind
    assert reader.failed is (kind is EventKind.ERROR)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"choices":[{"index":0,"delta":{}}],"usage":{}}', EventKind.USAGE_ONLY),
        (b'{"choices":[{"index":0,"delta":{},"finish_reason":null,"logprobs":null}],"usage":{}}', EventKind.USAGE_ONLY),
        (b'{"choices":[{"delta":{}},{"delta":null}],"usage":{}}', EventKind.USAGE_ONLY),
        (b'{"choices":[{"delta":{}},{"delta":{"content":"."}}],"usage":{}}', EventKind.DATA),
        (b'{"choices":[{"delta":{"content":""}}],"usage":{}}', EventKind.DATA),
        (b'{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{}}', EventKind.DATA),
        (b'{"choices":[{"delta":{},"something":"new"}],"usage":{}}', EventKind.DATA),
        (b'{"choices":[{"delta":{}}],"usage":null}', EventKind.DATA),
        (b'{"choices":[null],"usage":{}}', EventKind.DATA),
    ],
)
def test_usage_may_come_with_empty_choices(data: bytes, kind: EventKind) -> None:
    """LiteLLM sends it like this after the finish reason. With any other choice the event is data."""
    finished = ChatResponseReader()
    finished.read_data(chunk_of(None, finish_reason="stop"))

    assert finished.read_data(data) is kind
    assert ChatResponseReader().read_data(data) is EventKind.DATA


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_no_error(data: bytes) -> None:
    """An error in the reader must not interrupt the forwarding of a stream."""
    ChatResponseReader().read_data(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "message", "content", "index", "usage", "total_tokens", "error"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=5))
def test_arbitrary_json_raises_no_error(values: list[object]) -> None:
    """The values include known names with values of wrong types."""
    streamed_summary(*(json.dumps(value).encode() for value in values))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 11,
                "completion_tokens": 7,
                "total_tokens": 18,
                "prompt_tokens_details": {"cached_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(11, 7, 18, 5, 3),
        ),
        ({"prompt_tokens": 0, "prompt_tokens_details": None}, Usage(0)),
        ({}, Usage()),
        (None, Usage()),
        ("many", Usage()),
        ({"prompt_tokens": True, "completion_tokens": "7", "total_tokens": 1.5}, Usage()),
        ({"prompt_tokens": 11.0, "completion_tokens": 7.0}, Usage(11, 7)),
        ({"prompt_tokens": float("inf"), "completion_tokens": -1.0}, Usage()),
        ({"prompt_tokens": 11, "prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 6}, Usage(11, None, None, 5)),
        (
            {
                "input_tokens": 11,
                "output_tokens": 7,
                "input_tokens_details": {"cached_tokens": 5},
                "output_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(11, 7, None, 5, 3),
        ),
        (
            {"prompt_tokens": -1, "completion_tokens": 1 << 31, "total_tokens": (1 << 31) - 1},
            Usage(None, None, (1 << 31) - 1),
        ),
        ({"prompt_tokens": 10**30, "prompt_tokens_details": [], "completion_tokens_details": "x"}, Usage()),
    ],
)
def test_usage_has_the_providers_counts(usage: object, expected: Usage) -> None:
    """Only counts that fit into a database column are used. Any other value is None, not zero."""
    assert summary_of(body_of("a", usage=usage)).usage == expected


@pytest.mark.parametrize(
    "last",
    [
        b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":11}}]}',
        b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"r","usage":{"prompt_tokens":11}}}',
    ],
)
def test_usage_is_read_from_the_places_of_other_servers(last: bytes) -> None:
    """Moonshot puts it into the choice, Groq into ``x_groq``. An earlier event without usage has no effect."""
    first = b'{"choices":[{"index":0,"delta":{"content":"a"}}],"x_groq":{"id":"r"}}'
    assert streamed_summary(first, last).usage == Usage(11)


@pytest.mark.parametrize("choices", [None, [], "none"])
def test_a_body_without_choices_is_a_failure(choices: object) -> None:
    """The client gets it unchanged, but the record says that the provider failed."""
    body = body_of("a", choices=choices)
    reader = ChatResponseReader()
    assert (reader.read_body(body), reader.failed) == (body, True)


def test_the_finish_reason_error_is_a_failure() -> None:
    """OpenRouter sends it, buffered and in streams, when the model has failed."""
    buffered, streamed = ChatResponseReader(), ChatResponseReader()
    buffered.read_body(body_of("a").replace(b'"stop"', b'"error"'))
    kind = streamed.read_data(chunk_of("a", finish_reason="error"))
    assert (buffered.failed, streamed.failed, kind) == (True, True, EventKind.DATA)
    assert streamed.summary().finish_reason == "error"


def test_the_last_usage_of_a_stream_counts() -> None:
    """A later count replaces an earlier one, and null is ignored."""
    summary = streamed_summary(
        b'{"choices":[],"usage":{"total_tokens":1}}',
        chunk_of("a"),
        b'{"choices":[],"usage":{"total_tokens":2}}',
        chunk_of("b"),
    )

    assert summary.usage == Usage(total_tokens=2)


def test_the_last_model_and_finish_reason_count() -> None:
    """Values of other types are ignored."""
    summary = streamed_summary(
        b'{"model":"first"}', chunk_of("a", finish_reason="length"), b'{"model":7,"choices":[{"finish_reason":0}]}'
    )

    assert (summary.model, summary.finish_reason) == ("m-1", "length")


@pytest.mark.parametrize("name", ["m\x00\ud800", "m" * 10_000])
def test_names_are_sanitized_for_the_databases(name: str) -> None:
    """They contain no NUL and no lone surrogate, and are not too long, so that the exchange can be stored."""
    summary = streamed_summary(json.dumps({"model": name, "choices": [{"finish_reason": name}]}).encode())
    for sanitized in (summary.model, summary.finish_reason):
        assert sanitized is not None
        assert sanitized.startswith("m")
        assert len(sanitized.encode()) <= 256
        assert "\x00" not in sanitized


def test_the_number_of_hashed_choices_is_limited() -> None:
    """A broken provider cannot make the proxy keep the hashes of a million choices."""
    reader = ChatResponseReader()
    for index in range(200):
        reader.read_data(chunk_of("a", index))
    at_200 = reader.summary()
    reader.read_data(chunk_of("a", 10**6))

    assert reader.summary() == at_200
    assert at_200.completion_hash == hashlib.sha256((sha("a") * 128).encode()).hexdigest()


NAMED_DATA = [b"overloaded", b"", b'{"message":"no"}', b'{"error":null}', b"[1]", chunk_of("text"), b"[DONE]", None]


@pytest.mark.parametrize("data", [*NAMED_DATA, b'{"choices":[],"usage":{"total_tokens":1}}'])
def test_an_event_named_error_is_a_failure(data: bytes | None) -> None:
    """Its data has no effect, even if it would otherwise be hidden or end the stream."""
    reader = ChatResponseReader(hides_usage=True)
    reader.read_event(StreamEvent(b"first", chunk_of("text")))

    assert reader.read_event(StreamEvent(b"raw", data, b"error")) == b"raw"
    assert (reader.failed, reader.has_ended) == (True, False)


@pytest.mark.parametrize("name", [b"message", b"Error", b" error", b"error "])
def test_an_event_with_another_name_is_read_like_an_unnamed_one(name: bytes) -> None:
    """Some servers name all events."""
    reader = ChatResponseReader(hides_usage=True)

    assert reader.read_event(StreamEvent(b"raw", chunk_of("text"), name)) == b"raw"
    assert reader.read_event(StreamEvent(b"raw", b'{"choices":[],"usage":{}}', name)) == b""
    assert reader.read_event(StreamEvent(b"raw", b"[DONE]", name)) == b"raw"
    assert (reader.failed, reader.has_ended) == (False, True)
    assert reader.summary().completion_hash == sha("text")
