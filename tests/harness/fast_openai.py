"""A provider for benchmarks. It answers at once or at a model's pace, and reports its own share of the time.

``python -m harness.fast_openai`` prints its base URL on loopback. The model's name selects the response:
``gpt-instant`` some 450 bytes at once, ``gpt-paced`` the same after a model's delay, ``gpt-stream`` a stream of events,
``gpt-silent`` nothing, ``gpt-begins`` a stream that stalls after it begins.

Times are of the monotonic clock, which all processes of a machine share: a stream event holds the time of its writing,
a paced response the time for which it was held back. ``GET /lost`` lists every request whose connection closed before
its response was complete, by the text of its last message. ``GET /received`` returns how many requests came, without
instant ones, by their first message. Both cover one process, so a caller that needs all requests starts only one.

A stream is one of the Responses API if its path is; that API's input counts as a message.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import uvloop

from harness.openai_responses import message_item, response_events, response_object
from harness.openai_wire import DONE, USAGE, chunked

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOPBACK = "127.0.0.1"
_TOLD_CHARACTERS = 80
_COMPLETION = {
    "id": "chatcmpl-%s",  # of all fields the one that every gateway passes on
    "object": "chat.completion",
    "created": 1_767_323_045,
    "model": "gpt-4o-2024-08-06",
    "system_fingerprint": "fp_fast",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A short answer of some words, as they are.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
_BODY = json.dumps(_COMPLETION, separators=(",", ":"))
_CHUNK = (
    b'data: {"id":"chatcmpl-fast","object":"chat.completion.chunk","created":1767323045,"model":"gpt-4o-2024-08-06",'
    b'"choices":[{"index":0,"delta":{"content":"%d "},"finish_reason":null}],"usage":null}%b\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-fast","object":"chat.completion.chunk","created":1767323045,"model":"gpt-4o-2024-08-06",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
)
_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":2,"item_id":'
    b'"msg_fast","output_index":0,"content_index":0,"delta":"%d ","logprobs":[],"obfuscation":"aBcDeFg"}%b\n\n'
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: req_fast\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _answer(note: str) -> bytes:
    body = (_BODY % note).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_fast\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


_INSTANT = _answer("fast")
_END_OF_STREAM = chunked(_LAST) + chunked(DONE) + chunked(b"")


@dataclass(frozen=True, slots=True)
class _Stream:
    """The bytes of a stream: before its events, an event with its time and padding, after its events."""

    begin: bytes = _STREAM_HEAD
    event: bytes = _CHUNK
    end: bytes = _END_OF_STREAM


_CHAT = _Stream()


def _responses_stream(request: dict[str, Any]) -> _Stream:
    """Return a stream of the Responses API, which repeats the request's instructions as OpenAI's do.

    It ends with ``[DONE]``, as the streams of some compatible servers do.
    """
    response = response_object(request, [message_item("A short answer.")])
    created, *_, completed = response_events(response, ())
    return _Stream(_STREAM_HEAD + chunked(created), _DELTA, chunked(completed) + chunked(DONE) + chunked(b""))


@dataclass(frozen=True, slots=True)
class LeakyBucket:
    """The pace of a model: seconds to the first byte, their variation, and events per second.

    Each event is larger by ``padding`` bytes.
    """

    first_s: float = 0.25
    give_or_take_s: float = 0.1
    events: int = 100
    events_a_second: float = 50.0
    padding: int = 0


PACE = LeakyBucket()


@dataclass(slots=True)
class FastOpenAI:
    """The state that the connections of one process share."""

    pace: LeakyBucket
    draw: random.Random
    lost: dict[str, int] = field(default_factory=dict)
    received: Counter[str] = field(default_factory=Counter)

    def thinks_s(self) -> float:
        """Draw the delay of the model."""
        return self.pace.first_s + self.draw.uniform(-1, 1) * self.pace.give_or_take_s


class _Connection(asyncio.Protocol):
    """Finds the end of a request and answers it, without a task and with the least possible parsing."""

    def __init__(self, server: FastOpenAI) -> None:
        self._server = server
        self._received = b""
        self._parts: list[bytes] = []
        self._missing = 0
        self._pending = ""
        self._stream = _CHAT
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._loop = asyncio.get_running_loop()
        self._paused = False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._missing > len(data):  # the parts of a large request are joined once, when all of it has arrived
            self._parts.append(data)
            self._missing -= len(data)
            return
        received = b"".join((self._received, *self._parts, data)) if self._received else data
        self._parts.clear()
        self._missing = 0
        while True:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                break
            head = received[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._missing = end + 4 + length - len(received)
            if self._missing > 0:
                break
            self._missing = 0
            self._answer(head, received[end + 4 : end + 4 + length])
            received = received[end + 4 + length :]
        self._received = received

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._timer is not None:
            self._timer.cancel()
        if self._pending:
            self._server.lost[self._pending] = time.monotonic_ns()

    def _answer(self, head: bytes, body: bytes) -> None:
        if b"gpt-instant" in body:
            self._transport.write(_INSTANT)
        elif head.startswith(b"get"):
            told = self._server.received if b"/received " in head[:64] else self._server.lost
            self._write_json(json.dumps(told))
        else:
            request = json.loads(body)
            is_of_responses = b"/responses " in head[:64]
            self._stream = _responses_stream(request) if is_of_responses else _CHAT
            messages = [{"role": "user", "content": request["input"]}] if is_of_responses else request["messages"]
            self._server.received[f"{messages[0]['role']}: {messages[0]['content']}"[:_TOLD_CHARACTERS]] += 1
            self._pending = messages[-1]["content"]
            self._slowly(body)

    def _slowly(self, body: bytes) -> None:
        if b"gpt-begins" in body:
            self._transport.write(self._stream.begin)
            self._event(1, self._loop.time(), last=0)
        elif b"gpt-paced" in body:
            began = time.monotonic_ns()
            self._timer = self._loop.call_later(self._server.thinks_s(), self._paced, began)
        elif b"gpt-stream" in body:
            first = self._loop.time() + self._server.thinks_s()
            self._timer = self._loop.call_at(first, self._first_event, first)

    def _paced(self, began_ns: int) -> None:
        self._pending = ""
        self._transport.write(_answer(f"took {time.monotonic_ns() - began_ns} ns"))

    def _first_event(self, due: float) -> None:
        self._transport.write(self._stream.begin)
        self._event(1, due, last=self._server.pace.events)

    def _event(self, number: int, due: float, last: int) -> None:
        if not self._paused:  # a real model would wait; here it suffices that the buffer does not grow
            padding = b" " * self._server.pace.padding
            self._transport.write(chunked(self._stream.event % (time.monotonic_ns(), padding)))
        if number < last:
            due += 1 / self._server.pace.events_a_second
            self._timer = self._loop.call_at(due, self._event, number + 1, due, last)
        elif last:
            self._pending = ""
            self._transport.write(self._stream.end)

    def _write_json(self, text: str) -> None:
        body = text.encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )


async def serve(listener: socket.socket, pace: LeakyBucket, seed: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    server = FastOpenAI(pace, random.Random(seed))  # noqa: S311 - a pace, no secret
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    listening = await loop.create_server(lambda: _Connection(server), sock=listener, backlog=4096)
    await stopped.wait()
    listening.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Listen with some processes on one port; the first line on stdout is the base URL, once all of them run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--first-s", type=float, default=PACE.first_s)
    parser.add_argument("--give-or-take-s", type=float, default=PACE.give_or_take_s)
    parser.add_argument("--events", type=int, default=PACE.events)
    parser.add_argument("--events-a-second", type=float, default=PACE.events_a_second)
    parser.add_argument("--padding", type=int, default=PACE.padding)
    options = parser.parse_args(arguments)
    pace = LeakyBucket(
        options.first_s, options.give_or_take_s, options.events, options.events_a_second, options.padding
    )
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, options.port))
        listener.listen(4096)
        children = []
        for number in range(1, options.processes):
            child = os.fork()
            if child == 0:
                uvloop.run(serve(listener, pace, seed=number))
                os._exit(0)
            children.append(child)
        sys.stdout.write(f"listening on http://{LOOPBACK}:{listener.getsockname()[1]}/v1\n")
        sys.stdout.flush()
        uvloop.run(serve(listener, pace, seed=0))
        for child in children:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
