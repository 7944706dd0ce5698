"""Splitting a stream of server-sent events without changing a byte of it (WHATWG HTML, section 9.2).

Lines end with CRLF, LF or CR; a blank line ends an event. Each byte is looked at once, however the stream was cut: what
is held back is never searched again from its start. The bytes given out, joined, are the bytes taken in.
"""

from __future__ import annotations

import re
from typing import Final

from ibex.domain.proxying.provider import StreamEvent

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024

_line_end = re.compile(rb"\r\n|\n|\r").search
_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = 0x0D
_LF: Final = 0x0A


class EventSplitter:
    """Takes the stream's bytes as they are read and gives out the events that they complete.

    An event of more than ``max_event_bytes`` is passed on in pieces, as it comes, without data: it is not kept in
    memory as a whole.

    A CR at the end of what was read may be half of a CRLF, so the event waits for the next byte; not so in a stream
    whose lines end with a bare CR, where no such byte need ever come. An LF that comes after all goes with the next
    event. This is decided by the bytes before it, so the events are the same wherever the stream is cut.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._held = bytearray()  # of an event without its end
        self._line = 0  # where in it the last line begins; negative if that is given out already
        self._searched = 0  # up to here there is no line end that was not taken
        self._lines: list[bytes] = []  # the event's data so far
        self._last_was_cr = False
        self._owes_lf = False
        self._oversized = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Take bytes; return the events that are complete now."""
        if not self._held:
            return self._usual(chunk) or self._split(chunk, at_end=False)
        self._held += chunk
        return self._split(self._held, at_end=False)

    def finish(self, *, cut: bool = False) -> list[StreamEvent]:
        """The stream is over: return what was held back, a partial event as bytes without data.

        Of a stream that was ``cut`` a partial event is not returned: what is said next would become a part of it.
        """
        events = self._split(self._held, at_end=True)
        if self._held and not cut:
            events.append(StreamEvent(bytes(self._held)))
            self._held.clear()
        return events

    def _usual(self, chunk: bytes) -> list[StreamEvent]:
        """Return the events of a chunk of whole ones, each a line of data that ends with LF; none if it is any other.

        That is what providers send, and a stream's every event goes through here: it takes a third of the time.
        """
        is_in_order = self._line == 0 and not self._lines and not self._owes_lf and not self._oversized
        if not is_in_order or len(chunk) > self._max_event_bytes or not chunk.endswith(b"\n\n") or b"\r" in chunk:
            return []
        events = []
        for text in chunk[:-2].split(b"\n\n"):
            if not text.startswith(b"data: ") or b"\n" in text:
                return []
            events.append(StreamEvent(b"%b\n\n" % text, text[6:]))
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
                events.append(StreamEvent(bytes(buffer[start : self._searched])))
            self._oversized = True
            self._lines = []
            start = self._searched
        self._keep(buffer, start)
        return events

    def _keep(self, buffer: bytes | bytearray, start: int) -> None:
        """Hold back what begins at ``start``."""
        if buffer is self._held:
            del self._held[:start]
        else:
            self._held += buffer[start:]
        self._line -= start
        self._searched -= start

    def _next_line_end(self, buffer: bytes | bytearray, *, at_end: bool) -> tuple[int, int] | None:
        """Return where the line ends and where the next one begins; None if that cannot be known yet."""
        if self._owes_lf and self._searched < len(buffer):
            self._owes_lf = False
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
            self._owes_lf = True
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
        elif end - line == 4 and buffer.startswith(b"data", line):  # noqa: PLR2004 - a field's name alone: it is empty
            self._lines.append(b"")

    def _event(self, raw: bytes) -> StreamEvent:
        lines = self._lines
        if not lines and not self._oversized:
            return StreamEvent(raw)
        whole = not self._oversized and len(raw) <= self._max_event_bytes
        data = None if not whole else lines[0] if len(lines) == 1 else b"\n".join(lines)
        self._lines = []
        self._oversized = False
        return StreamEvent(raw, data)
