"""OpenAI's wire format as bytes: the valid and invalid responses of a scripted provider."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REQUEST_ID = "req_scripted"
JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 2,
    "total_tokens": 11,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
PHRASES = {200: b"OK", 204: b"No Content", 302: b"Found", 400: b"Bad Request", 429: b"Too Many Requests"}


class Gate:
    """A gate at which a script pauses until the test opens it; usable from any thread."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._reached = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait(self) -> None:
        """Report that the script has arrived, and return when the gate is open."""
        self._loop = asyncio.get_running_loop()
        self._reached.set()
        await self._opened.wait()

    async def reached(self) -> None:
        """Return when the script has arrived; to be awaited in the server's loop."""
        await self._reached.wait()

    def open(self) -> None:
        """Let the script continue, now or when it arrives."""
        if self._loop is None:
            self._opened.set()
        else:
            self._loop.call_soon_threadsafe(self._opened.set)


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing more until the gate is opened."""

    gate: Gate = field(default_factory=Gate)


@dataclass(frozen=True, slots=True)
class Rest:
    """Send nothing for some seconds, for tests of a slow provider."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """Send the remaining bytes, and close the connection."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection (RST) and discard unsent bytes."""


@dataclass(frozen=True, slots=True)
class Silent:
    """Send nothing more, and leave the connection open."""


Step: TypeAlias = Send | Pause | Rest | Close | Reset | Silent
Script: TypeAlias = "tuple[Step, ...]"


def head(status: int = 200, headers: Mapping[str, str] | None = None, *, version: str = "1.1") -> bytes:
    """Return a status line and headers, with OpenAI's request id among them unless another is given."""
    lines = [b"HTTP/%s %d %s" % (version.encode(), status, PHRASES.get(status, b"Scripted"))]
    lines += [
        f"{name}: {value}".encode() for name, value in ({"x-request-id": REQUEST_ID} | dict(headers or {})).items()
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def answer(status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> Script:
    """Return a response with a body and its Content-Length."""
    framing = {"content-type": content_type, "content-length": str(len(body))}
    return (Send(head(status, framing | dict(headers or {})) + body),)


def chunked(data: bytes) -> bytes:
    """Return one chunk of chunked transfer coding; the last chunk if there is no data."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def completion_object(message: Mapping[str, Any], finish_reason: str = "stop", model: str = "gpt-4o") -> dict[str, Any]:
    """Return a chat completion with one choice."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, "refusal": None, **message},
        "logprobs": None,
        "finish_reason": finish_reason,
    }
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1_767_323_045,
        "model": model,
        "system_fingerprint": "fp_scripted",
        "choices": [choice],
        "usage": USAGE,
    }


def completion_body(text: str) -> bytes:
    """Return the bytes of a chat completion with this text, with OpenAI's whitespace."""
    return json.dumps(completion_object({"content": text}), indent=2).encode() + b"\n"


def chunk_event(
    delta: Mapping[str, Any] | None, finish_reason: str | None = None, *, usage: object = None, model: str = "gpt-4o"
) -> bytes:
    """Return a stream event: a delta of the only choice or, without a delta, the usage."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    chunk = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 1_767_323_045,
        "model": model,
        "system_fingerprint": "fp_scripted",
        "choices": [] if delta is None else [choice],
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def stream_events(
    deltas: Sequence[Mapping[str, Any]], finish_reason: str = "stop", *, usage: bool = True
) -> list[bytes]:
    """Return the events of a whole stream: the role, the deltas, the finish reason, usage, ``[DONE]``."""
    events = [chunk_event({"role": "assistant", "content": ""})]
    events += [chunk_event(delta) for delta in deltas]
    events.append(chunk_event({}, finish_reason))
    if usage:
        events.append(chunk_event(None, usage=USAGE))
    return [*events, DONE]


def text_deltas(*pieces: str) -> list[dict[str, str]]:
    """Return the deltas of a text in these pieces."""
    return [{"content": piece} for piece in pieces]


def completion(text: str, headers: Mapping[str, str] | None = None) -> Script:
    """Return a valid buffered response."""
    return answer(200, completion_body(text), JSON_TYPE, headers)


def open_stream(*events: bytes) -> Script:
    """Begin a stream, each event a chunk and a write of its own, and leave it open."""
    start = Send(head(200, {"content-type": SSE_TYPE, "transfer-encoding": "chunked"}))
    return (start, *(Send(chunked(event)) for event in events))


def stream(*events: bytes) -> Script:
    """Send a stream, each event a chunk and a write of its own, to its end."""
    return (*open_stream(*events), Send(chunked(b"")))


def text_stream(*pieces: str, usage: bool = True) -> Script:
    """Return a valid stream with a text in these pieces."""
    return stream(*stream_events(text_deltas(*pieces), usage=usage))


def tool_call(name: str, arguments: str) -> dict[str, Any]:
    """Return a message that calls a function."""
    call = {"id": "call_scripted", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [call]}


def model_object(name: str) -> dict[str, Any]:
    """Return a model as OpenAI describes it."""
    return {"id": name, "object": "model", "created": 1_715_367_049, "owned_by": "system"}


def model_list(*models: Any) -> Script:
    """Answer with a list of models."""
    return answer(200, json.dumps({"object": "list", "data": models}).encode(), JSON_TYPE)


def error_body(
    message: str, *, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
) -> bytes:
    """Return an error in OpenAI's shape."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def error(
    status: int, message: str = "scripted error", headers: Mapping[str, str] | None = None, **fields: Any
) -> Script:
    """Answer with an error in OpenAI's shape."""
    return answer(status, error_body(message, **fields), JSON_TYPE, headers)


def html() -> Script:
    """Answer 200 with an HTML page, as a captive portal does."""
    return answer(200, b"<html><body>Welcome</body></html>", "text/html")


def redirect(to: str) -> Script:
    """Answer with a redirect."""
    return answer(302, b"", "text/html", {"location": to})


def no_content() -> Script:
    """Answer 204."""
    return (Send(head(204)),)


def gzipped(text: str) -> Script:
    """Return a valid response in gzip, although the request does not accept it."""
    return answer(200, gzip.compress(completion_body(text)), JSON_TYPE, {"content-encoding": "gzip"})


def gzipped_stream(*events: bytes) -> Script:
    """Return a valid stream in gzip, although the request does not accept it."""
    framing = {"content-type": SSE_TYPE, "transfer-encoding": "chunked", "content-encoding": "gzip"}
    return (Send(head(200, framing) + chunked(gzip.compress(b"".join(events))) + chunked(b"")),)


def length_too_long(text: str) -> Script:
    """Answer with fewer bytes than announced, and close."""
    body = completion_body(text)
    return (*answer(200, body, JSON_TYPE, {"content-length": str(len(body) + 100)}), Close())


def length_too_short(text: str) -> Script:
    """Answer with more bytes than announced."""
    body = completion_body(text)
    return answer(200, body, JSON_TYPE, {"content-length": str(len(body) - 100)})


def broken_chunk() -> Script:
    """Answer with a chunk whose size is not a number."""
    framing = {"content-type": JSON_TYPE, "transfer-encoding": "chunked"}
    return (Send(head(200, framing) + chunked(b'{"id":') + b"zz\r\nmore\r\n"),)


def http_1_0(text: str) -> Script:
    """Answer as HTTP/1.0 does without a length: the end of the connection ends the body."""
    return (Send(head(200, {"content-type": JSON_TYPE}, version="1.0") + completion_body(text)), Close())


def informational_first(text: str) -> Script:
    """Return a valid response after a 103 and a 100."""
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    return (Send(hints), *completion(text))


def connection_close(text: str) -> Script:
    """Return a valid response with ``Connection: close``, and close."""
    return (*completion(text, {"connection": "close"}), Close())


def cut_in_body(text: str) -> Script:
    """Send half a response and close."""
    body = completion_body(text)
    framing = {"content-type": JSON_TYPE, "content-length": str(len(body))}
    return (Send(head(200, framing) + body[: len(body) // 2]), Close())
