"""Tests of splitting streams of server-sent events."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ibex.adapters.openai_api.server_sent_events import MAX_EVENT_BYTES, EventSplitter

Events = list[tuple[bytes, bytes | None, bytes | None]]
"""The bytes, the data and the name of each event."""

PIECES = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"),
        *(
            b"data",
            b"data:",
            b"data: ",
            b"data:  ",
            b":",
            b": comment",
            b"event: x",
            b"event:",
            b"event",
            b"id:1",
            b"retry: 5",
            b"datum: x",
        ),
        *(b"a", b" ", b"\xef\xbb\xbf", "ü🙂".encode(), b'{"choices":[]}', b"[DONE]", b"\x00"),
    ]
)
STREAMS = st.lists(PIECES, max_size=30).map(b"".join)


def reference(stream: bytes) -> Events:
    """Split a whole stream line by line."""
    lines = re.findall(rb"([^\r\n]*)(\r\n|\r|\n|\Z)", stream)
    events: Events = []
    raw, data, event_name, last_end = b"", [], None, b""
    for number, (line, end) in enumerate(lines):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        if text or not end:
            raw += line + end
            name, _, value = text.partition(b":")
            if name == b"data" and end:
                data.append(value.removeprefix(b" "))
            if name == b"event":
                event_name = value.removeprefix(b" ") or None
        else:
            cr_only = end == b"\r\n" and last_end == b"\r"
            events.append((raw + line + (b"\r" if cr_only else end), b"\n".join(data) if data else None, event_name))
            raw, data, event_name = b"\n" if cr_only else b"", [], None
        last_end = end
    return [*events, (raw, None, None)] if raw else events


def split(stream: bytes, cuts: list[int] | None = None, **options: int) -> Events:
    """Feed the stream, cut at these places, and return all events."""
    splitter = EventSplitter(**options)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts or ()), len(stream)]
    chunks = [stream[begin:end] for begin, end in itertools.pairwise(places)]
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return [(event.raw, event.data, event.name) for event in [*events, *splitter.finish()]]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"", []),
        (b"data: a\n\n", [(b"data: a\n\n", b"a")]),
        (b"data:a\n\n", [(b"data:a\n\n", b"a")]),
        (b"data:  a\n\n", [(b"data:  a\n\n", b" a")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"data: a\r\n\r\n", b"a"), (b"data: b\r\n\r\n", b"b")]),
        (b"data: a\r\rdata: b\r\r", [(b"data: a\r\r", b"a"), (b"data: b\r\r", b"b")]),
        (b"data: a\ndata\ndata:b\n\n", [(b"data: a\ndata\ndata:b\n\n", b"a\n\nb")]),
        (b"event: x\nid: 1\nretry: 2\ndata: a\n\n", [(b"event: x\nid: 1\nretry: 2\ndata: a\n\n", b"a")]),
        (b": keep-alive\n\n", [(b": keep-alive\n\n", None)]),
        (b"event: ping\n\n", [(b"event: ping\n\n", None)]),
        (b"data\n\n", [(b"data\n\n", b"")]),
        (b"data:\n\n", [(b"data:\n\n", b"")]),
        (b"database: x\n\n", [(b"database: x\n\n", None)]),
        (b"Data: x\n\n", [(b"Data: x\n\n", None)]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"\xef\xbb\xbfdata: a\n\n", b"a")]),
        (b"\xef\xbb\xbf\n", [(b"\xef\xbb\xbf\n", None)]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [(b"data: a\n\n", b"a"), (b"\xef\xbb\xbfdata: b\n\n", None)]),
        (b"\n\ndata: a\n\n", [(b"\n", None), (b"\n", None), (b"data: a\n\n", b"a")]),
        (b"data: a\n\ndata: b", [(b"data: a\n\n", b"a"), (b"data: b", None)]),
        (b"data: a\n\ndata: b\n", [(b"data: a\n\n", b"a"), (b"data: b\n", None)]),
        (b"data: a\r\r\ndata: b\r\n\r\n", [(b"data: a\r\r", b"a"), (b"\ndata: b\r\n\r\n", b"b")]),
        (b"data: a\r\n\r", [(b"data: a\r\n\r", b"a")]),
        (b"data: [DONE]\n\n", [(b"data: [DONE]\n\n", b"[DONE]")]),
    ],
)
def test_a_stream_is_split_according_to_the_standard(stream: bytes, events: list[tuple[bytes, bytes | None]]) -> None:
    """Every byte belongs to an event. The data is what a browser dispatches."""
    assert [event[:2] for event in split(stream)] == events
    assert reference(stream) == split(stream) == split(stream, list(range(len(stream))))


@pytest.mark.parametrize(
    ("stream", "names"),
    [
        (b"data: a\n\n", [None]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [b"error", None]),
        (b"data: a\nevent:error\n\n", [b"error"]),
        (b"event: a\r\nevent:  b\r\ndata: c\r\n\r\n", [b" b"]),
        (b"event: a\nevent\ndata: b\n\nevent: c\nevent:\ndata: d\n\n", [None, None]),
        (b"event: ping\n\n", [b"ping"]),
        (b"events: a\n\nEvent: a\n\n: event: a\n\n", [None, None, None]),
        (b"event: error\n", [None]),
    ],
)
def test_an_event_has_the_name_of_its_last_event_field(stream: bytes, names: list[bytes | None]) -> None:
    """An event with an empty name and an incomplete event are unnamed."""
    assert [name for _, _, name in split(stream)] == names
    assert reference(stream) == split(stream) == split(stream, list(range(len(stream))))


def test_an_event_over_the_limit_keeps_its_name() -> None:
    """Its data is dropped. The next event has no name."""
    stream = b"event: error\ndata: " + b"x" * 30 + b"\n\ndata: a\n\n"

    *_, large, last = split(stream, list(range(len(stream))), max_event_bytes=20)

    assert large[1:] == (None, b"error")
    assert last[1:] == (b"a", None)
    assert split(stream, max_event_bytes=20)[0][1:] == (None, b"error")


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200), max_size=8))
@example(stream=b"\r\r\r\n\n\r", cuts=[1, 2, 3])
@example(stream=b"\xef\xbb\xbf\r\n\r\n", cuts=[1, 4])
def test_the_events_do_not_depend_on_the_cuts_of_the_stream(stream: bytes, cuts: list[int]) -> None:
    """The events equal those of the reference for the whole stream, and no byte is lost."""
    expected = reference(stream)
    assert split(stream, cuts) == expected
    assert split(stream, list(range(len(stream)))) == expected
    assert b"".join(raw for raw, _, _ in expected) == stream


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200), max_size=8), most=st.integers(1, 20))
def test_events_over_the_limit_lose_no_bytes(stream: bytes, cuts: list[int], most: int) -> None:
    """Small events keep their data and large ones lose it, for any cuts. All bytes stay in order."""
    events = split(stream, cuts, max_event_bytes=most)
    assert b"".join(raw for raw, _, _ in events) == stream
    small = [event for event in reference(stream) if len(event[0]) <= most and event[1] is not None]
    assert [event for event in events if event[1] is not None] == small


def test_a_complete_event_is_returned_with_its_last_byte() -> None:
    """The event does not wait for the next one. This applies to every kind of line end."""
    for stream in (b"data: a\n\n", b"data: a\r\n\r\n", b"data: a\r\r"):
        splitter = EventSplitter()
        given_out = [len(splitter.feed(stream[i : i + 1])) for i in range(len(stream))]
        assert given_out == [0] * (len(stream) - 1) + [1]


def test_an_event_over_the_limit_is_not_buffered() -> None:
    """Its parts are returned as they arrive, without data. The next event has its data again."""
    splitter = EventSplitter(max_event_bytes=100)
    assert splitter.feed(b"data: " + b"x" * 90) == []
    (piece,) = splitter.feed(b"y" * 10)
    assert (len(piece.raw), piece.data) == (106, None)
    (piece,) = splitter.feed(b"z")
    assert (piece.raw, piece.data) == (b"z", None)
    end, following = splitter.feed(b"\n\ndata: a\n\n")
    assert (end.raw, end.data) == (b"\n\n", None)
    assert following.data == b"a"


def test_a_large_event_in_one_chunk_has_no_data() -> None:
    """The result does not depend on the number of chunks."""
    (event,) = EventSplitter(max_event_bytes=10).feed(b"data: 1234567890\n\n")
    assert event.data is None


def test_a_megabyte_is_within_the_limit_and_split_in_linear_time() -> None:
    """Four times the bytes, read one by one, take about four times as long, not sixteen times."""

    def seconds(size: int) -> float:
        splitter, start = EventSplitter(), time.perf_counter()
        events = splitter.feed(b"data: ")
        for _ in range(size):
            events += splitter.feed(b"x")
        events += splitter.feed(b"\n\n")
        assert [len(event.data or b"") for event in events] == [size]
        return time.perf_counter() - start

    assert MAX_EVENT_BYTES > 1 << 20
    assert min(seconds(1 << 18) for _ in range(3)) < 8 * min(seconds(1 << 16) for _ in range(3))


def test_the_repr_of_an_event_contains_no_text() -> None:
    """The repr contains only the size."""
    (event,) = EventSplitter().feed(b"data: secret\n\n")
    assert "secret" not in repr(event)
