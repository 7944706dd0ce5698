"""Tests of the reader for the Responses API."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseErrorEvent, ResponseFailedEvent

from harness.openai_responses import (
    call_item,
    message_item,
    response_events,
    response_object,
    typed_event,
)
from harness.responses_requests import forwarded, held_bytes
from ibex.adapters.openai_api.responses_response import ResponsesReader
from ibex.domain.proxying.operation import MalformedResponseError
from ibex.domain.proxying.provider import StreamEvent
from ibex.domain.record.summary import Usage

OWN = b'"the client\'s"'
DIRECTIVE = "the directive, a secret"
USAGE = Usage(input_tokens=9, output_tokens=2, total_tokens=11, cached_tokens=4, reasoning_tokens=1)
ENVELOPE = b'{"error":{"code":"PROVIDER_TIMEOUT","message":"Too slow.","param":null,"type":"server_error"}}'

any_text = st.text(st.characters(exclude_categories=()), max_size=20)


def sha(text: str) -> str:
    """Return the SHA-256 of the UTF-8 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def restoring() -> ResponsesReader:
    """Return a reader that restores the client's instructions."""
    return ResponsesReader(lambda value: value if value == b"null" else OWN)


def response_of(*texts: str, **changes: Any) -> dict[str, Any]:
    """Return a response with these texts, made with the directive."""
    request = {"model": "gpt-5", "instructions": DIRECTIVE}
    return response_object(request, **({"output": [message_item(*texts)]} | changes))


def events_of(*pieces: str, **changes: Any) -> list[bytes]:
    """Return the events of a stream with a text in these pieces."""
    return response_events(response_of("".join(pieces), **changes), pieces)


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a stream at any positions."""
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def test_a_buffered_response_is_summarized() -> None:
    """The summary has the model, usage, status, hash of the text and id."""
    reader = ResponsesReader()
    body = json.dumps(response_of("Hello.", id="resp_7"), indent=2).encode()

    assert reader.read_body(body) == body
    summary = reader.summary()
    assert (summary.model, summary.usage, summary.finish_reason) == ("gpt-5", USAGE, "completed")
    assert (summary.completion_hash, summary.response_id) == (sha("Hello."), "resp_7")
    assert not reader.failed


@given(st.lists(any_text, min_size=1, max_size=4), st.lists(st.integers(0, 100_000), max_size=8))
def test_a_stream_has_the_summary_of_the_buffered_response(pieces: list[str], cuts: list[int]) -> None:
    """This holds for any split of the text and the stream. All bytes are forwarded."""
    buffered, streamed = ResponsesReader(), ResponsesReader()
    response = response_of("".join(pieces))
    buffered.read_body(json.dumps(response).encode())
    stream = b"".join(response_events(response, pieces))

    assert forwarded(streamed, pieces_of(stream, cuts)) == stream
    assert streamed.summary() == buffered.summary()
    assert (streamed.has_ended, streamed.is_complete, streamed.failed) == (True, True, False)


@given(
    cuts=st.lists(st.integers(0, 100_000), max_size=8),
    max_event_bytes=st.sampled_from([1 << 22, 1_500, 700, 100]),
    crlf=st.booleans(),
)
def test_the_clients_instructions_are_restored(cuts: list[int], max_event_bytes: int, *, crlf: bool) -> None:
    """This applies to every event, even one that is too large to buffer. All other bytes are unchanged."""
    stream = b": comment {\n\n" + b"".join(events_of("Hel", "lo.")) + b"data: [DONE]\n\n"
    if crlf:
        stream = stream.replace(b"\n", b"\r\n")
    reader = restoring()

    found = forwarded(reader, pieces_of(stream, cuts), max_event_bytes)

    assert found == stream.replace(json.dumps(DIRECTIVE).encode(), OWN)
    summary = reader.summary()
    assert (summary.usage, summary.finish_reason, summary.model) == (USAGE, "completed", "gpt-5")
    assert reader.has_ended


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"instructions":"D"', '"instructions":O'),
        ('"instructions" :\n"D"', '"instructions" :\nO'),
        ('"instructions":"D","metadata":{"x":"D"}', '"instructions":O,"metadata":{"x":"D"}'),
        ('"metadata":{"x":"D"},"instructions":"D"', '"metadata":{"x":"D"},"instructions":O'),
        ('"tools":[{"instructions":"D"}],"instructions":"D"', '"tools":[{"instructions":"D"}],"instructions":O'),
        (
            '"tools":[{"instructions":"other"}],"instructions":"D"',
            '"tools":[{"instructions":"other"}],"instructions":O',
        ),
        ('"instructions":"D","instructions":"D2"', '"instructions":O,"instructions":O'),
        ('"\\u0069nstructions":"D"', '"\\u0069nstructions":O'),
        ('"\\u0069nstructions":"D","x":{"instructions":"D"}', '"\\u0069nstructions":O,"x":{"instructions":"D"}'),
        ('"instructions":["D",""]', '"instructions":O'),
        ('"instructions":[\n"D"]', '"instructions":O'),
        ('"instructions":""', '"instructions":O'),
        ('"instructions":"D","x":"\\"D\\""', '"instructions":O,"x":"\\"D\\""'),
    ],
)
def test_only_the_instructions_of_the_response_are_replaced(written: str, expected: str) -> None:
    """Other members of the same name or value keep theirs, in a body and in an event of one or several lines."""
    written, expected = (text.replace("O", OWN.decode()) for text in (written, expected))
    body, restored_body = (f'{{"id":"resp_1","status":"completed",{text}}}' for text in (written, expected))
    event, restored_event = (_event_of(f'{{"type":"e","response":{text}}}') for text in (body, restored_body))

    assert restoring().read_body(body.encode()).decode() == restored_body
    assert forwarded(restoring(), [event]) == restored_event


def _event_of(data: str) -> bytes:
    """Return an event with a data line for each line of the data."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: e\n{lines}\n".encode()


def test_the_pieces_of_a_large_event_are_not_buffered() -> None:
    """The last event has 100 MB and arrives in pieces, which the reader forwards at once."""
    reader = restoring()
    image = "A" * 1_000_000
    start = (
        b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_1","instructions":"x"'
    )
    reader.read_event(StreamEvent(start, is_piece=True))
    reader.read_event(StreamEvent(b',"output":[', is_piece=True))
    held = 0
    for _ in range(100):
        reader.read_event(
            StreamEvent(b'{"type":"image_generation_call","result":"%b"},' % image.encode(), is_piece=True)
        )
        held = max(held, held_bytes(reader))
    last = b'{}],"status":"completed","usage":{"input_tokens":1,"output_tokens":2}}}\n\n'
    assert reader.read_event(StreamEvent(last, is_piece=True)) == last

    assert held < 1_000
    assert (reader.has_ended, reader.summary().usage.output_tokens, reader.summary().response_id) == (True, 2, "resp_1")


@pytest.mark.parametrize(
    ("changes", "reason", "failed"),
    [
        ({}, "completed", False),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "max_output_tokens", False),
        ({"status": "incomplete", "incomplete_details": None}, "incomplete", False),
        ({"status": "failed", "error": {"code": "server_error", "message": "x"}}, "failed", True),
    ],
)
def test_the_status_of_a_response_decides_reason_and_failure(
    changes: dict[str, Any], reason: str, *, failed: bool
) -> None:
    """An incomplete response is a success. A failed one is forwarded and recorded as a failure."""
    buffered, streamed = ResponsesReader(), ResponsesReader()
    buffered.read_body(json.dumps(response_of("x", **changes)).encode())
    forwarded(streamed, events_of("x", **changes))

    for reader in (buffered, streamed):
        assert (reader.summary().finish_reason, reader.failed) == (reason, failed)
    assert streamed.has_ended


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "sequence_number": 2, "code": "server_error", "message": "x", "param": None},
        {"type": "error", "error": {"message": "x"}},
        {"error": {"message": "x"}},
    ],
)
def test_an_error_event_is_a_failure(event: dict[str, Any]) -> None:
    """The stream is not complete. The bytes of the event are forwarded."""
    reader = ResponsesReader()
    raw = b"data: " + json.dumps(event).encode() + b"\n\n"
    assert forwarded(reader, [events_of("x")[0], raw]).endswith(raw)
    assert (reader.failed, reader.is_complete) == (True, False)


def test_a_stream_without_deltas_has_the_hash_of_its_output() -> None:
    """Some servers send the text only in the last event."""
    reader = ResponsesReader()
    forwarded(reader, [events_of("Hello.")[-1]])
    assert reader.summary().completion_hash == sha("Hello.")


def test_several_texts_have_one_hash() -> None:
    """The hash covers the hashes of the texts in order, whether the texts are parts or items."""
    output = [message_item("a", "b"), call_item("f", "{}"), message_item("c")]
    reader = ResponsesReader()
    reader.read_body(json.dumps(response_of("x", output=output)).encode())
    assert reader.summary().completion_hash == sha(sha("a") + sha("b") + sha("c"))


@pytest.mark.parametrize("body", [b"", b"[]", b"no", b'{"error":{"message":"x"}}', b'{"id":'])
def test_a_malformed_response_is_refused(body: bytes) -> None:
    """An error in a successful response is not forwarded, because it may name the provider's account."""
    with pytest.raises(MalformedResponseError):
        ResponsesReader().read_body(body)


@pytest.mark.parametrize(
    "data",
    [
        b"no JSON",
        b"[1]",
        b'{"type":5,"response":7,"delta":{"a":1}}',
        b'{"type":"response.output_text.delta","delta":5,"output_index":"x"}',
        b'{"type":"response.completed","response":"x"}',
        b'{"type":"response.created","response":{"id":5,"model":[],"usage":3,"instructions":5}}',
        b'{"type":"response.output_text.delta","delta":"\\ud800"}',
        b"[" * 5_000,
    ],
)
def test_an_event_in_an_unknown_format_is_forwarded(data: bytes) -> None:
    """Only its instructions change, if it has any."""
    raw = b"data: " + data + b"\n\n"
    assert restoring().read_event(StreamEvent(raw, data)) in (
        raw,
        raw.replace(b'"instructions":5', b'"instructions":' + OWN),
    )


def test_an_interrupted_stream_ends_with_events_of_the_api() -> None:
    """The events continue the sequence numbers of the stream."""
    reader = ResponsesReader()
    forwarded(reader, events_of("Hel", "lo.")[:4])

    first, second = reader.error_event(ENVELOPE).decode().split("\n\n")[:2]

    assert (first.split("\n")[0], second.split("\n")[0]) == ("event: response.failed", "event: error")
    failed = ResponseFailedEvent.model_validate_json(first.partition("data: ")[2])
    assert (failed.sequence_number, failed.response.status, failed.response.model) == (4, "failed", "gpt-5")
    assert failed.response.id == reader.summary().response_id
    assert failed.response.error is not None
    assert (failed.response.error.code, failed.response.error.message) == ("server_error", "Too slow.")
    told = ResponseErrorEvent.model_validate_json(second.partition("data: ")[2])
    assert (told.sequence_number, told.code, told.message) == (5, "PROVIDER_TIMEOUT", "Too slow.")


def test_an_interruption_before_the_first_event_starts_at_sequence_number_0() -> None:
    """No response id is known yet."""
    first = ResponsesReader().error_event(ENVELOPE).decode().split("\n\n")[0]
    assert json.loads(first.partition("data: ")[2])["sequence_number"] == 0


def test_a_response_without_instructions_is_forwarded_unchanged() -> None:
    """The same applies to a response whose instructions are null."""
    for response in ({"id": "r"}, {"id": "r", "instructions": None}):
        event = typed_event({"type": "response.created", "response": response})
        assert forwarded(restoring(), [event]) == event
        body = json.dumps(response).encode()
        assert restoring().read_body(body) == body


LEAKS = {
    "a lone surrogate": b'{"type":"response.completed","response":{"instructions":"@","id":"r","user":"\\ud83d"}}',
    "not a number": b'{"type":"response.completed","response":{"instructions":"@","id":"r","top_p":NaN}}',
    "an error beside the response": b'{"type":"response.failed","error":{"a":1},"response":{"instructions":"@"}}',
    "an error event": b'{"type":"error","response":{"instructions":"@"}}',
    "a delta with a response": b'{"type":"response.output_text.delta","delta":"x","response":{"instructions":"@"}}',
    "types that are none": b'{"type":[],"response":{"instructions":"@","status":[],"usage":"x","id":{}}}',
    "an escaped name": b'{"type":"response.created","response":{"instr\\u0075ctions":"@"}}',
    "two responses": b'{"response":{"instructions":"@"},"type":"response.created","response":{"instructions":"@"}}',
    "deep nesting": b'{"type":"response.created","response":{"instructions":"@","x":'
    + b"[" * 3_000
    + b"]" * 3_000
    + b"}}",
}


@pytest.mark.parametrize("data", LEAKS.values(), ids=LEAKS)
def test_instructions_are_restored_in_unusual_events(data: bytes) -> None:
    """The parser refuses some of these events, but clients may accept them. All other bytes are forwarded."""
    raw = b"event: x\ndata: " + data.replace(b"@", DIRECTIVE.encode()) + b"\n\n"
    assert forwarded(restoring(), [raw]) == raw.replace(b'"%b"' % DIRECTIVE.encode(), OWN)


@pytest.mark.parametrize("start", [b"\xef\xbb\xbfdata: ", b"data:", b"\n\ndata: ", b": x\ndata: "])
@pytest.mark.parametrize("max_event_bytes", [1 << 22, 50])
def test_instructions_are_restored_for_any_beginning_of_an_event(start: bytes, max_event_bytes: int) -> None:
    """The event may begin with a byte order mark, follow comments, or arrive in pieces."""
    raw = start + b'{"type":"response.created","response":{"id":"r","instructions":"%b"}}\n\n' % DIRECTIVE.encode()
    found = forwarded(restoring(), [raw[:9], raw[9:]], max_event_bytes)
    assert found == raw.replace(b'"%b"' % DIRECTIVE.encode(), OWN)


@pytest.mark.parametrize("end", [b"", b"\n", b"}", b"}}", b"}}\n"])
def test_instructions_are_restored_in_an_incomplete_event(end: bytes) -> None:
    """The blank line, or the rest of the object, is missing."""
    raw = b'data: {"type":"response.completed","response":{"instructions":"%b"' % DIRECTIVE.encode() + end
    assert DIRECTIVE.encode() not in forwarded(restoring(), [raw])


def test_instructions_are_restored_in_json_instead_of_a_stream() -> None:
    """The provider has announced a stream. The reader forwards the body like an event."""
    raw = b'{"id":"r","response":{"instructions":"%b"}}' % DIRECTIVE.encode()
    assert DIRECTIVE.encode() not in forwarded(restoring(), [raw])


@pytest.mark.parametrize(
    "member", [b'"user":"\\ud83d"', b'"top_p":NaN', b'"output":"x"', b'"status":[]', b'"usage":7', b'"model":null']
)
def test_a_body_that_the_strict_parser_refuses_is_forwarded(member: bytes) -> None:
    """Python's parser accepts it, and so may the client. The instructions are restored."""
    body = b'{"id":"resp_1","instructions":"%b",%b}' % (DIRECTIVE.encode(), member)
    reader = restoring()
    assert reader.read_body(body) == body.replace(b'"%b"' % DIRECTIVE.encode(), OWN)
    assert (reader.failed, reader.summary().response_id) == (False, "resp_1")


def test_a_text_that_is_cut_in_a_surrogate_pair_is_hashed() -> None:
    """The strict parser refuses both halves."""
    halves = [b'{"type":"response.output_text.delta","delta":"%b"}' % half for half in (b"a", b"\\ud83d", b"\\ude00")]
    reader = ResponsesReader()
    for data in halves:
        reader.read_event(StreamEvent(b"data: " + data + b"\n\n", data))
    assert reader.summary().completion_hash == sha("a😀")
