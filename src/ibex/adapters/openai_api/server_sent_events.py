"""Splitting a stream of server-sent events without changing a byte of it (WHATWG HTML, section 9.2).

Lines end with CRLF, LF or CR; a blank line ends an event. Each byte is examined once, wherever the stream is cut into
chunks. The concatenated output equals the concatenated input.
"""

from __future__ import annotations

import re
from typing import Final

from ibex.adapters.openai_api.response_fields import json_object
from ibex.domain.proxying.provider import StreamEvent

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
DONE: Final = b"[DONE]"
"""The data of the event that ends a stream of chat completions."""

_line_end = re.compile(rb"\r\n|\n|\r").search
_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = 0x0D
_LF: Final = 0x0A


def unterminated_event(raw: bytes) -> StreamEvent:
    """Return the last event of a stream, from which the blank line is missing, as some servers send it.

    It has data only if they are complete: ``DONE``, or a JSON object.
    """
    event = EventSplitter().feed(raw + b"\n\n")[0]
    if event.data == DONE or (event.data is not None and json_object(event.data) is not None):
        return StreamEvent(raw, event.data, event.name)
    return StreamEvent(raw)


class EventSplitter:
    """A splitter that takes the bytes of a stream chunk by chunk and returns the events that each chunk completes.

    An event of more than ``max_event_bytes`` is returned in pieces without data, so that it is never in memory as a
    whole.

    A CR at the end of a chunk may be the first half of a CRLF, so its event waits for the next byte. In a stream whose
    lines end with bare CRs it does not wait, because no more bytes may come; an LF that follows nevertheless becomes
    part of the next event. Only earlier bytes decide this, so the events are the same wherever the stream is cut.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()  # the start of an incomplete event
        self._line = 0  # the start of the last line in it; negative if that was returned already
        self._searched = 0  # the line ends before this index have been processed
        self._lines: list[bytes] = []  # the data lines of the event so far
        self._name: bytes | None = None  # from the last "event" line of the event so far
        self._last_was_cr = False
        self._lf_may_follow = False
        self._oversized = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Add bytes and return the events that are now complete."""
        if not self._pending:
            return self._split_simple(chunk) or self._split(chunk, at_end=False)
        self._pending += chunk
        return self._split(self._pending, at_end=False)

    def finish(self, *, cut: bool = False) -> list[StreamEvent]:
        """End the stream and return the remaining events, an incomplete one as bytes without data.

        If the stream was ``cut`` off, omit an incomplete event: the error event that follows would become part of it.
        """
        events = self._split(self._pending, at_end=True)
        if self._pending and not cut:
            events.append(StreamEvent(bytes(self._pending), is_piece=self._oversized))
            self._pending.clear()
        return events

    def _split_simple(self, chunk: bytes) -> list[StreamEvent]:
        """Return the events of a chunk if each is one data line, optionally after an event line, and lines end with LF.

        Return none for any other chunk. Providers send nearly all events in this form, and this takes a third of the
        time of ``_split``.
        """
        is_at_event_start = self._line == 0 and not self._lines and not self._lf_may_follow and not self._oversized
        if not is_at_event_start or len(chunk) > self._max_event_bytes or not chunk.endswith(b"\n\n") or b"\r" in chunk:
            return []
        events = []
        for text in chunk[:-2].split(b"\n\n"):
            name, line = None, text
            if text.startswith(b"event: "):
                first, _, line = text.partition(b"\n")
                name = first[7:] or None
            if not line.startswith(b"data: ") or b"\n" in line:
                return []
            events.append(StreamEvent(b"%b\n\n" % text, line[6:], name))
        self._at_start = self._last_was_cr = False
        return events

    def _split(self, buffer: bytes | bytearray, *, at_end: bool) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        start = 0
        while (found := self._next_line_end(buffer, at_end=at_end)) is not None:
            end, after = found
            if end == self._line:
                events.append(self._event(bytes(buffer[start:after])))
                start = after
            elif not self._oversized:
                self._take_line(buffer, self._line, end)
            self._line = self._searched = after
        if self._oversized or len(buffer) - start > self._max_event_bytes:
            if self._searched > start:
                events.append(StreamEvent(bytes(buffer[start : self._searched]), is_piece=True))
            self._oversized = True
            self._lines = []
            start = self._searched
        self._keep(buffer, start)
        return events

    def _keep(self, buffer: bytes | bytearray, start: int) -> None:
        """Keep the bytes from ``start`` on for the next chunk."""
        if buffer is self._pending:
            del self._pending[:start]
        else:
            self._pending += buffer[start:]
        self._line -= start
        self._searched -= start

    def _next_line_end(self, buffer: bytes | bytearray, *, at_end: bool) -> tuple[int, int] | None:
        """Return the end of the line and the start of the next one; None if they are not known yet."""
        if self._lf_may_follow and self._searched < len(buffer):
            self._lf_may_follow = False
            if buffer[self._searched] == _LF:
                self._last_was_cr = False
                self._line = self._searched = self._searched + 1
        found = _line_end(buffer, self._searched)
        if found is None:
            self._searched = len(buffer)
            return None
        end, after = found.span()
        if self._at_start:
            self._at_start = False
            self._line += len(_BOM) if buffer.startswith(_BOM) and self._line == 0 else 0
        if buffer[end] != _CR:
            self._last_was_cr = False
        elif self._last_was_cr and end == self._line:
            self._lf_may_follow = True
            return end, end + 1
        elif after == len(buffer) and after - end == 1 and not at_end:
            self._searched = end
            return None
        else:
            self._last_was_cr = after - end == 1
        return end, after

    def _take_line(self, buffer: bytes | bytearray, line: int, end: int) -> None:
        if buffer.startswith(b"data:", line, end):
            value = line + 5
            if buffer.startswith(b" ", value, end):
                value += 1
            self._lines.append(bytes(buffer[value:end]))
        elif buffer.startswith(b"event:", line, end):
            value = line + 6
            if buffer.startswith(b" ", value, end):
                value += 1
            self._name = bytes(buffer[value:end]) or None
        elif end - line == 4 and buffer.startswith(b"data", line):  # noqa: PLR2004 - a field without a value
            self._lines.append(b"")
        elif end - line == 5 and buffer.startswith(b"event", line):  # noqa: PLR2004 - a field without a value
            self._name = None

    def _event(self, raw: bytes) -> StreamEvent:
        lines, name = self._lines, self._name
        self._name = None
        if not lines and not self._oversized:
            return StreamEvent(raw, None, name)
        is_piece = self._oversized or len(raw) > self._max_event_bytes
        data = None if is_piece else lines[0] if len(lines) == 1 else b"\n".join(lines)
        self._lines = []
        self._oversized = False
        return StreamEvent(raw, data, name, is_piece)
