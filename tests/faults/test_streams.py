"""Streams of unusual form, and streams that break after the client has the response head (docs/faults.md).

Each goes from a scripted provider's socket through the whole proxy to a client's socket.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING

import pytest

from harness.loopback import Loopback, resident_kib
from harness.openai_wire import (
    DONE,
    REQUEST_ID,
    SSE_TYPE,
    Close,
    Gate,
    Pause,
    Reset,
    Send,
    Silent,
    chunk_event,
    chunked,
    gzipped_stream,
    head,
    open_stream,
    stream,
    stream_events,
    text_deltas,
)

if TYPE_CHECKING:
    from harness.openai_wire import Script

pytestmark = pytest.mark.integration

PIECES = ("Grüße", " an", " alle 🙂")
EVENTS = stream_events(text_deltas(*PIECES))
WITHOUT_USAGE = stream_events(text_deltas(*PIECES), usage=False)
HASH = hashlib.sha256("".join(PIECES).encode()).hexdigest()
UNAVAILABLE = (503, "PROVIDER_UNAVAILABLE")
CHUNKED_STREAM = {"content-type": SSE_TYPE, "transfer-encoding": "chunked"}


def _written(*changes: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the stream with replacements, as the provider sends it and as the client must get it."""
    sent, left = b"".join(EVENTS), b"".join(WITHOUT_USAGE)
    for old, new in changes:
        sent, left = sent.replace(old, new), left.replace(old, new)
    return sent, left


SHAPES = {
    "as OpenAI's": _written(),
    "CRLF": _written((b"\n", b"\r\n")),
    "CR": _written((b"\n", b"\r")),
    "comments": _written((b"data: {", b": a comment\n\ndata: {")),
    "other fields": _written((b"data: {", b"event: message\nid: 1\nretry: 5\ndata: {")),
    "no space": _written((b"data: ", b"data:")),
    "several data lines": _written((b'"choices":', b'\ndata: "choices":')),
    "no blank line after [DONE]": (_written()[0][:-1], _written()[1][:-1]),
    "no line end after [DONE]": (_written()[0][:-2], _written()[1][:-2]),
    "after [DONE]": (_written()[0] + b": after\n\ndata: canary\n\n", _written()[1]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_stream_of_unusual_form_is_forwarded(proxy: Loopback, name: str) -> None:
    """IBEX forwards it byte for byte, except the usage that only IBEX requested. The record is complete."""
    sent, expected = SHAPES[name]
    seen = proxy.ask(stream(sent), stream=True)
    exchange = proxy.record(seen.request_id)
    if name == "comments":  # the comment before the hidden event stays: it is a separate event
        expected = expected.replace(b"data: [DONE]", b": a comment\n\ndata: [DONE]")
    if name == "after [DONE]":
        assert seen.body.startswith(expected)
        assert b"canary" not in seen.body
    else:
        assert seen.body == expected
    assert (exchange.status, exchange.is_complete, exchange.provider_request_id) == (200, True, REQUEST_ID)
    assert (exchange.summary.completion_hash, exchange.summary.finish_reason) == (HASH, "stop")
    assert (exchange.summary.usage.input_tokens, exchange.summary.usage.output_tokens) == (9, 2)


@pytest.mark.parametrize("name", ["as OpenAI's", "CRLF", "CR", "several data lines"])
def test_a_stream_in_single_bytes_is_forwarded(proxy: Loopback, name: str) -> None:
    """Chunks end within events, line ends and characters. The client and the record get the same content."""
    sent, expected = SHAPES[name]
    seen = proxy.ask(stream(*(sent[n : n + 1] for n in range(len(sent)))), stream=True)
    exchange = proxy.record(seen.request_id)
    assert seen.body == expected
    assert (exchange.is_complete, exchange.summary.completion_hash) == (True, HASH)
    assert exchange.summary.usage.total_tokens == 11


def test_a_compressed_stream_is_decompressed(proxy: Loopback) -> None:
    """The provider compresses the stream unasked. The client gets it without a content encoding."""
    seen = proxy.ask(gzipped_stream(*EVENTS), stream=True)
    assert seen.body == b"".join(WITHOUT_USAGE)
    assert "content-encoding" not in seen.headers
    assert proxy.record(seen.request_id).summary.completion_hash == HASH


def test_a_stream_that_ends_with_its_connection_is_complete(proxy: Loopback) -> None:
    """HTTP/1.0 has no other end. The finish reason and [DONE] show that nothing is missing."""
    start = Send(head(200, {"content-type": SSE_TYPE}, version="1.0") + b"".join(EVENTS))
    seen = proxy.ask((start, Close()), stream=True)
    assert seen.body == b"".join(WITHOUT_USAGE)
    assert proxy.record(seen.request_id).is_complete


def test_an_event_of_a_mebibyte_is_forwarded(proxy: Loopback) -> None:
    """IBEX hashes its text and does not keep it."""
    text = "x" * (1 << 20)
    seen = proxy.ask(stream(*stream_events(text_deltas(text))), stream=True)
    exchange = proxy.record(seen.request_id)
    assert seen.body == b"".join(stream_events(text_deltas(text), usage=False))
    assert exchange.summary.completion_hash == hashlib.sha256(text.encode()).hexdigest()
    assert exchange.is_complete


def test_an_endless_event_is_forwarded_in_bounded_memory(proxy: Loopback) -> None:
    """IBEX forwards 64 MiB without a line end in pieces, and records the stream as incomplete."""
    piece = chunked(b"x" * (1 << 16))
    before = resident_kib()
    proxy.provider.put((*open_stream(b"data: "), *[Send(piece)] * 1024, Send(chunked(b""))))
    with proxy.client() as client:
        client.send(proxy.chat(stream=True))
        _, headers = client.read_head()
        *pieces, _ = ((len(chunk), chunk[-1]) for chunk in client.chunks())
        assert sum(size for size, _ in pieces) >= 64 << 20
    assert resident_kib() - before < 200 << 10  # this process also holds the provider's unsent bytes
    exchange = proxy.record(headers["x-request-id"])
    assert (exchange.status, exchange.is_complete, exchange.summary.completion_hash) == (503, False, None)


@pytest.mark.parametrize(
    "junk",
    [
        b"data: {\n\n",
        b"data: 5\n\n",
        b'data: {"choices":5,"usage":[]}\n\n',
        b"data: " + b"[" * 5_000 + b"\n\n",
        b"\xff\n\n",
    ],
)
def test_an_invalid_event_is_forwarded(proxy: Loopback, junk: bytes) -> None:
    """The record ignores the event."""
    seen = proxy.ask(stream(EVENTS[0], junk, *EVENTS[1:]), stream=True)
    exchange = proxy.record(seen.request_id)
    assert seen.body == b"".join((WITHOUT_USAGE[0], junk, *WITHOUT_USAGE[1:]))
    assert (exchange.is_complete, exchange.summary.completion_hash) == (True, HASH)


def test_a_stream_without_done_is_complete_after_a_finish_reason(proxy: Loopback) -> None:
    """Some compatible servers send no [DONE]."""
    seen = proxy.ask(stream(*EVENTS[:-1]), stream=True)
    assert seen.body == b"".join(WITHOUT_USAGE[:-1])
    assert proxy.record(seen.request_id).is_complete


@pytest.mark.parametrize(
    "end", [(Send(chunked(b"")),), (Close(),), (Send(chunked(b"data: half")), Close()), (Send(b"zz\r\n"),)]
)
def test_an_interrupted_stream_ends_with_an_error_event(proxy: Loopback, end: Script) -> None:
    """The client gets the earlier events, then an error event in the form of the envelope. SDKs raise on it.

    The stream has no [DONE].
    """
    came = b"".join(EVENTS[:3])
    seen = proxy.ask((*open_stream(*EVENTS[:3]), *end), stream=True)
    exchange = proxy.record(seen.request_id)
    assert seen.body.startswith(came)
    assert b"[DONE]" not in seen.body
    assert seen.last_event["code"] == "PROVIDER_UNAVAILABLE"
    assert (exchange.status, exchange.error_code) == UNAVAILABLE
    assert (exchange.is_complete, exchange.is_streaming) == (False, True)
    assert exchange.summary.completion_hash == hashlib.sha256("".join(PIECES[:2]).encode()).hexdigest()
    assert exchange.summary.usage.output_tokens is None


def test_a_reset_stream_ends_with_an_error_event(proxy: Loopback) -> None:
    """The client gets the earlier events first."""
    gate = Gate()
    proxy.provider.put((*open_stream(EVENTS[0]), Pause(gate), Reset()))
    with proxy.client() as client:
        client.send(proxy.chat(stream=True))
        _, headers = client.read_head()
        chunks = client.chunks()
        assert next(chunks) == EVENTS[0]
        gate.open()
        last = json.loads(b"".join(chunks).removeprefix(b"data: "))
    assert last["error"]["code"] == "PROVIDER_UNAVAILABLE"
    assert proxy.record(headers["x-request-id"]).error_code == "PROVIDER_UNAVAILABLE"


@pytest.mark.parametrize("rest", [(), (DONE,)])
def test_an_error_event_of_the_provider_is_forwarded_once(proxy: Loopback, rest: tuple[bytes, ...]) -> None:
    """The record has a failure and not an empty success."""
    failed = b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'
    seen = proxy.ask(stream(EVENTS[0], failed, *rest), stream=True)
    exchange = proxy.record(seen.request_id)
    assert seen.body == b"".join((EVENTS[0], failed, *rest))
    assert (exchange.status, exchange.error_code) == UNAVAILABLE
    assert not exchange.is_complete


@pytest.mark.parametrize("rest", [(), (DONE,), (EVENTS[-3], DONE)])
@pytest.mark.parametrize("data", [b"overloaded", b'{"message":"overloaded"}', b"", b"two\ndata: lines"])
def test_an_event_named_error_is_a_failure(proxy: Loopback, data: bytes, rest: tuple[bytes, ...]) -> None:
    """IBEX forwards the event and records a failure, regardless of its data and of later events."""
    failed = b"event: error\ndata: " + data + b"\n\n"
    seen = proxy.ask(stream(EVENTS[0], failed, *rest), stream=True)
    exchange = proxy.record(seen.request_id)
    assert seen.body == b"".join((EVENTS[0], failed, *rest))
    assert (exchange.status, exchange.error_code) == UNAVAILABLE
    assert not exchange.is_complete


def test_a_stream_that_stays_open_after_done_is_closed(proxy: Loopback) -> None:
    """The client's response ends with [DONE]. IBEX closes the provider's connection instead of keeping it."""
    seen = proxy.ask((*open_stream(*EVENTS), Silent()), stream=True)
    assert seen.body == b"".join(WITHOUT_USAGE)
    assert proxy.record(seen.request_id).is_complete
    proxy.provider.see(proxy.provider.requests[0].closed_at())


def test_each_event_is_forwarded_immediately(proxy: Loopback) -> None:
    """The client gets it before the provider sends the next one."""
    gates = [Gate() for _ in WITHOUT_USAGE]
    steps = [
        step for gate, event in zip(gates, WITHOUT_USAGE, strict=True) for step in (Pause(gate), Send(chunked(event)))
    ]
    proxy.provider.put((*open_stream(), *steps, Send(chunked(b""))))
    with proxy.client() as client:
        client.send(proxy.chat(stream=True))
        client.read_head()
        chunks = client.chunks()
        for gate, event in zip(gates, WITHOUT_USAGE, strict=True):
            gate.open()
            assert next(chunks) == event
        assert list(chunks) == []


def test_usage_that_the_client_requests_is_forwarded(proxy: Loopback) -> None:
    """The request to the provider contains the option once."""
    asking = b'"stream":true,"stream_options":{"include_usage":true}'
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}],' + asking + b"}"
    seen = proxy.ask(stream(*EVENTS), body=body)
    assert seen.body == b"".join(EVENTS)
    assert proxy.provider.requests[0].body.count(b"include_usage") == 1
    assert proxy.record(seen.request_id).summary.usage.total_tokens == 11


@pytest.mark.parametrize(
    "asking",
    [
        b'"usage":{"include":true}',
        b'"stream_options":{"continuous_usage_stats":true}',
        b'"stream_options":{"include_usage":false,"continuous_usage_stats":true}',
    ],
)
def test_usage_requested_with_another_servers_option_is_forwarded(proxy: Loopback, asking: bytes) -> None:
    """IBEX adds OpenAI's option to the request."""
    body = b'{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hi"}],' + asking + b"}"
    seen = proxy.ask(stream(*EVENTS), body=body)
    assert seen.body == b"".join(EVENTS)
    sent, own = json.loads(proxy.provider.requests[0].body), json.loads(body)
    assert sent["stream_options"] == own.get("stream_options", {}) | {"include_usage": True}
    assert sent.get("usage") == own.get("usage")
    assert proxy.record(seen.request_id).summary.usage.total_tokens == 11


def test_the_number_of_hashed_choices_is_bounded(proxy: Loopback) -> None:
    """A provider that numbers choices endlessly must not use up memory or time."""
    events = [chunk_event({"content": "x"}).replace(b'"index":0', b'"index":%d' % n) for n in range(2_000)]
    began = time.monotonic()
    seen = proxy.ask(stream(*events, *EVENTS), stream=True)
    assert seen.body == b"".join((*events, *WITHOUT_USAGE))
    assert proxy.record(seen.request_id).is_complete
    assert time.monotonic() - began < 30


def test_a_broken_stream_does_not_affect_concurrent_streams(proxy: Loopback) -> None:
    """Only the client of the broken stream gets an error."""
    gate = Gate()
    whole: Script = (*open_stream(EVENTS[0]), Pause(gate), *(Send(chunked(e)) for e in EVENTS[1:]), Send(chunked(b"")))
    proxy.provider.put(*[whole] * 50, (*open_stream(EVENTS[0]), Pause(gate), Send(b"zz\r\n")))
    clients = []
    for number in range(51):
        clients.append(proxy.connect())
        clients[-1].send(proxy.chat(stream=True))
        proxy.provider.see(proxy.provider.request(number + 1))
    gate.open()
    seen = [client.response() for client in clients]
    for client in clients:
        client.close()
    assert [one.body for one in seen[:50]] == [b"".join(WITHOUT_USAGE)] * 50
    assert seen[50].last_event["code"] == "PROVIDER_UNAVAILABLE"
    assert sum(proxy.record(one.request_id).is_complete for one in seen) == 50
