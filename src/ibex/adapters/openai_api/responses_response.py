"""A reader for the Responses API. It extracts the summary and restores the client's instructions.

Streams consist of typed events. ``response.completed``, ``response.incomplete`` or ``response.failed`` ends a stream.
An event is forwarded byte for byte, except for the ``instructions`` of the response in it. The reader keeps no text.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from ibex.adapters.openai_api.member_scanner import MemberScanner
from ibex.adapters.openai_api.response_fields import json_object, stored_name, usage_of
from ibex.adapters.openai_api.text_hash import TextHashes
from ibex.domain.proxying.operation import MalformedResponseError
from ibex.domain.record.summary import ResponseSummary, Usage

if TYPE_CHECKING:
    from ibex.adapters.openai_api.member_scanner import Path, Replace
    from ibex.domain.proxying.provider import StreamEvent

_TEXT_DELTA: Final = "response.output_text.delta"
TERMINAL_EVENTS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""The types of the events that end a stream."""
_FAILURES: Final = frozenset({"failed", "cancelled"})
_NULL: Final = b"null"
_ID: Final = re.compile(r"[\x21-\x7e]{1,256}")
_DATA_LINE: Final = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data:")
_INSTRUCTIONS: Final = "instructions"
_QUOTED_NAME: Final = b'"instructions"'
_OF_EVENT: Final = ("type", "sequence_number", "output_index", "content_index", "delta", "error")
_OF_RESPONSE: Final = ("id", "model", "status", "usage", "incomplete_details", "created_at", "error")
_CAPTURED: Final[frozenset[Path]] = frozenset(
    {*((name,) for name in _OF_EVENT), *(("response", name) for name in _OF_RESPONSE)}
)


class _Event(msgspec.Struct):
    """The members of an event that the proxy reads."""

    type: Any = None
    sequence_number: Any = None
    output_index: Any = None
    content_index: Any = None
    delta: Raw = Raw()
    response: Raw = Raw()
    error: Any = None


class _Response(msgspec.Struct):
    """The members of a response that the proxy reads."""

    id: Any = None
    model: Any = None
    status: Any = None
    usage: Any = None
    incomplete_details: Any = None
    created_at: Any = None
    instructions: Raw = Raw()
    output: Raw = Raw()
    error: Any = None


class _Part(msgspec.Struct):
    type: Any = None
    text: Any = None


class _OutputItem(msgspec.Struct):
    content: list[_Part] | None = None


_event_decoder = msgspec.json.Decoder(_Event)
_response_decoder = msgspec.json.Decoder(_Response)
_output_decoder = msgspec.json.Decoder(list[_OutputItem])
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class ResponsesReader:
    """The ``ResponseReader`` of the Responses API."""

    forwards_trailing_events = True

    def __init__(self, restore: Replace | None = None, *, is_turn: bool = True) -> None:
        """Set the function that maps the instructions in the response to the client's; None to change nothing.

        Only a turn has usage and the response id in its summary, because reading a stored response uses no tokens. Only
        a turn fails if the response has failed: reading such a response is a success.
        """
        self._restore = restore
        self._is_turn = is_turn
        self._texts = TextHashes[tuple[int, int]]()
        self._id: str | None = None
        self._model: str | None = None
        self._created_at: float = 0
        self._usage = Usage()
        self._finish_reason: str | None = None
        self._last_number = -1
        self._scanner: MemberScanner | None = None
        self.has_ended = False
        self.failed = False

    @property
    def is_complete(self) -> bool:
        """Whether the event that ends the stream has been read."""
        return self.has_ended

    def read_body(self, body: bytes) -> bytes:
        """Read a buffered response; see ``ResponseReader``."""
        try:
            response = _response_decoder.decode(body)
            items = _output_decoder.decode(response.output) if response.output else []
        except _UNREADABLE:
            return self._read_unusual_body(body)
        self._read_whole(response, items)
        if self._restore is None or not _has_instructions(response):
            return body
        return _with_instructions(body, (_INSTRUCTIONS,), response, self._restore)

    def _read_unusual_body(self, body: bytes) -> bytes:
        """Read a body that only Python's parser accepts: lone surrogates, NaN, or an output of another shape."""
        found = json_object(body)
        if found is None:
            raise MalformedResponseError
        known: dict[str, Any] = {name: found.get(name) for name in _OF_RESPONSE}
        try:
            items = msgspec.convert(found.get("output") or [], list[_OutputItem])
        except msgspec.ValidationError:
            items = []
        self._read_whole(_Response(**known), items)
        if self._restore is None or found.get(_INSTRUCTIONS) is None:
            return body
        return _scanned(body, (_INSTRUCTIONS,), self._restore)

    def _read_whole(self, response: _Response, items: list[_OutputItem]) -> None:
        if response.error and response.status is None:
            raise MalformedResponseError
        self._read_response(response)
        self._read_output(items)
        has_failed = isinstance(response.status, str) and response.status in _FAILURES
        if response.id is None or (self._is_turn and has_failed):
            self.failed = True

    def read_event(self, event: StreamEvent) -> bytes:
        """Read an event; see ``ResponseReader``."""
        if event.is_piece:
            return self._read_piece(event.raw)
        raw = event.raw
        if self._scanner is not None:  # the previous event was too large, and its object did not end
            raw = self._scanner.finish() + raw
            self._scanner = None
        if event.name == b"error":
            self.failed = True
        if event.data is not None:
            return self._read_data(event.data, raw)
        # An incomplete event may contain the instructions nevertheless.
        return raw if raw.startswith(b":") else self._scan_event(raw)

    def _read_data(self, data: bytes, raw: bytes) -> bytes:
        try:
            event = _event_decoder.decode(data)
        except _UNREADABLE:
            return self._scan_event(raw)
        if event.response:
            raw = self._read_event_with_response(event, raw)
        self._note_event(event, event.delta)
        return raw

    def _note_event(self, event: _Event, delta: bytes | Raw) -> None:
        if isinstance(event.sequence_number, int):
            self._last_number = event.sequence_number
        if event.type == _TEXT_DELTA:
            self._add_text(event, delta)
        elif event.type == "error" or event.error:
            self.failed = True

    def _read_event_with_response(self, event: _Event, raw: bytes) -> bytes:
        try:
            response = _response_decoder.decode(event.response)
        except _UNREADABLE:
            return self._scan_event(raw)
        self._read_response(response)
        if isinstance(event.type, str) and event.type in TERMINAL_EVENTS:
            if not self._texts:
                self._read_output(_items(response.output))
            self._end(event.type)
        if self._restore is None or not _has_instructions(response):
            return raw
        begin = _data_begin(raw)
        return raw[:begin] + _with_instructions(raw[begin:], ("response", _INSTRUCTIONS), response, self._restore)

    def _scan_event(self, raw: bytes) -> bytes:
        """Read an event that the parser refuses: one with lone surrogates or NaN, or an incomplete one."""
        forwarded = self._read_piece(raw)
        if self._scanner is not None:
            forwarded += self._scanner.finish()
            self._scanner = None
        return forwarded

    def _read_piece(self, raw: bytes) -> bytes:
        """Read a piece of an event that is too large to hold."""
        head = b""
        if self._scanner is None:
            begin = _data_begin(raw)
            if begin == len(raw):  # a comment, or the rest of an event whose object has ended
                return raw
            head, raw = raw[:begin], raw[begin:]
            replace: dict[Path, Replace] = {}
            if self._restore is not None:
                replace["response", _INSTRUCTIONS] = self._restore
            self._scanner = MemberScanner(_CAPTURED, replace)
        scanner = self._scanner
        forwarded = head + scanner.feed(raw)
        if scanner.is_done:
            self._scanner = None
            self._read_captured(scanner.captured)
        return forwarded

    def _read_captured(self, captured: dict[Path, bytes]) -> None:
        values = {path: _value(raw) for path, raw in captured.items()}
        of_event: dict[str, Any] = {name: values.get((name,)) for name in _OF_EVENT if name != "delta"}
        of_response: dict[str, Any] = {name: values.get(("response", name)) for name in _OF_RESPONSE}
        event = _Event(**of_event)
        self._note_event(event, captured.get(("delta",), b""))
        self._read_response(_Response(**of_response))
        if isinstance(event.type, str) and event.type in TERMINAL_EVENTS:
            self._end(event.type)

    def _end(self, kind: str) -> None:
        self.has_ended = True
        if self._is_turn and kind == "response.failed":
            self.failed = True

    def _read_response(self, response: _Response) -> None:
        if isinstance(response.id, str) and _ID.fullmatch(response.id):
            self._id = response.id
        if isinstance(response.model, str):
            self._model = stored_name(response.model)
        if isinstance(response.usage, dict):
            self._usage = usage_of(response.usage)
        if isinstance(response.created_at, int | float):
            self._created_at = response.created_at
        if isinstance(response.status, str):
            details = response.incomplete_details
            reason = details.get("reason") if response.status == "incomplete" and isinstance(details, dict) else None
            self._finish_reason = stored_name(reason if isinstance(reason, str) else response.status)

    def _read_output(self, items: list[_OutputItem]) -> None:
        """Add the texts of the whole output to the hash."""
        for output_index, item in enumerate(items):
            for content_index, part in enumerate(item.content or ()):
                if part.type == "output_text" and isinstance(part.text, str) and part.text:
                    self._texts.add((output_index, content_index), part.text)

    def _add_text(self, event: _Event, delta: bytes | Raw) -> None:
        text = _value(delta)
        if isinstance(text, str) and text:
            key = (_index(event.output_index), _index(event.content_index))
            self._texts.add(key, text)

    def error_event(self, envelope: bytes) -> bytes:
        """Return ``response.failed`` and ``error``, in the API's own format; see ``ResponseReader``."""
        error = msgspec.json.decode(envelope)["error"]
        code, message = error["code"], error["message"]
        response: dict[str, Any] = {
            "id": self._id or "",
            "object": "response",
            "created_at": self._created_at,
            "status": "failed",
            "error": {"code": "server_error", "message": message},  # the API defines no code for a proxy
            "incomplete_details": None,
            "instructions": None,
            "model": self._model or "",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
            "metadata": {},
        }
        number = self._last_number
        failed = {"type": "response.failed", "sequence_number": number + 1, "response": response}
        told = {
            "type": "error",
            "sequence_number": number + 2,
            "code": code,
            "message": message,
            "param": error["param"],
        }
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), msgspec.json.encode(event))
            for event in (failed, told)
        )

    def summary(self) -> ResponseSummary:
        """Return the summary of what has been read so far."""
        if not self._is_turn:
            return ResponseSummary(self._model, finish_reason=self._finish_reason)
        return ResponseSummary(self._model, self._usage, self._finish_reason, self._texts.hexdigest(), self._id)


def _has_instructions(response: _Response) -> bool:
    return bool(response.instructions) and bytes(response.instructions) != _NULL


def _with_instructions(text: bytes, path: Path, response: _Response, restore: Replace) -> bytes:
    """Return the text with the client's instructions instead of those of the response, which are at this path.

    If the value is a string that occurs only once, and so does the member's name, its place is certain without a scan,
    which would take 200 µs for each kB.
    """
    value = bytes(response.instructions)
    if value.startswith(b'"') and _occurs_once(value, text) and _occurs_once(_QUOTED_NAME, text):
        before, _, after = text.partition(value)
        return b"%b%b%b" % (before, restore(value), after)
    return _scanned(text, path, restore)


def _scanned(text: bytes, path: Path, restore: Replace) -> bytes:
    scanner = MemberScanner(frozenset(), {path: restore})
    return scanner.feed(text) + scanner.finish()


def _items(output: Raw) -> list[_OutputItem]:
    """Return the output; empty if it has another shape."""
    try:
        return _output_decoder.decode(output)
    except _UNREADABLE:
        return []


def _occurs_once(part: bytes, text: bytes) -> bool:
    begin = text.find(part)
    return begin >= 0 and text.find(part, begin + 1) < 0


def _data_begin(raw: bytes) -> int:
    """Return the position after the first ``data:`` at the start of a line, or ``len(raw)`` if no line has one.

    A server may send a JSON object where it announced events. Its position is 0.
    """
    found = _DATA_LINE.search(raw)
    if found is None:
        return 0 if raw.lstrip().startswith(b"{") else len(raw)
    return found.end()


def _value(raw: bytes | Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except _UNREADABLE:
        pass
    try:
        return json.loads(bytes(raw))  # unlike msgspec, accepts a lone surrogate
    except (ValueError, RecursionError):
        return None


def _index(value: object) -> int:
    return value if isinstance(value, int) else 0
