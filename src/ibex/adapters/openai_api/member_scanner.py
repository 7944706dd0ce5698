"""A scanner for a JSON object that passes in chunks. It captures some members and replaces others.

A provider's response can be too large to hold. The scanner keeps only the values that it captures, and forwards every
byte outside replaced values unchanged. This includes bytes around the object, and ``data:`` at the start of a line
between two tokens, so the object may be the data of a server-sent event.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Path: TypeAlias = tuple[str, ...]
"""The names of nested members, outermost first."""
Replace: TypeAlias = "Callable[[bytes | None], bytes]"

MAX_VALUE_BYTES: Final = 1 << 20
_MAX_NAME_BYTES: Final = 256
_TOKEN: Final = re.compile(rb'["{}\[\],]|[a-z]*:|[^\s"{}\[\],:]+')
_UNEXAMINED: Final = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
"""All before the next bracket, and before a string that does not end in this chunk."""
_REST_OF_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_MAY_BE_FIELD_NAME: Final = re.compile(rb"[a-z]{1,5}")
_FIELD_NAME: Final = re.compile(rb"(?:\r\n|[\r\n])data:")
"""The start of a data line of a server-sent event. A JSON string contains no line break, so this is between tokens."""
_QUOTE: Final = b'"'


class MemberScanner:
    """A scanner for the members at some paths of one JSON object. If the text is not JSON, ``captured`` is undefined.

    ``replace`` maps a path to a function that takes a value and returns the new one, both as JSON text. The
    scanner does not keep values of more than ``MAX_VALUE_BYTES``; for these, the function gets None.
    """

    def __init__(self, capture: frozenset[Path], replace: Mapping[Path, Replace] | None = None) -> None:
        self.captured: dict[Path, bytes] = {}
        """The captured values as JSON text. If a name is repeated, the last member counts, as in most parsers."""
        self.is_done = False
        """Whether the object has ended."""
        self._capture = capture
        self._replace = replace or {}
        self._prefixes = frozenset(path[:n] for path in {*capture, *self._replace} for n in range(1, len(path)))
        self._tail = b""  # the start of a token that the next chunk completes
        self._depth = 0
        self._container: Path = ()  # the innermost object whose members are examined, and its depth
        self._container_depth = 0
        self._name = ""
        self._has_colon = False
        self._in_string = False
        self._name_text: bytearray | None = None
        self._value: bytearray | None = None
        self._value_path: Path = ()
        self._value_depth = 0
        self._is_scalar = False
        self._is_oversized = False

    def feed(self, chunk: bytes) -> bytes:
        """Take a chunk and return the bytes to forward for it."""
        text, self._tail = self._tail + chunk, b""
        if self.is_done:
            return text
        out = bytearray()
        at = 0
        while at < len(text) and not self._tail:
            at = self._read_string(text, at, out) if self._in_string else self._read_token(text, at, out)
        return bytes(out)

    def finish(self) -> bytes:
        """Return the bytes that are left at the end of the text."""
        tail, self._tail = self._tail, b""
        return tail

    def _read_token(self, text: bytes, at: int, out: bytearray) -> int:
        examined = self._depth == self._container_depth
        if not examined:
            skipped = _UNEXAMINED.match(text, at)
            if skipped is not None and skipped.end() > at:
                self._pass(text[at : skipped.end()], out)
                return skipped.end()
        found = _TOKEN.search(text, at)
        if found is None:
            self._pass(text[at:], out)
            return len(text)
        start, end = found.span()
        if start > at:
            self._pass(text[at:start], out)
        if end == len(text) and _MAY_BE_FIELD_NAME.fullmatch(text, start):
            self._tail = text[start:]
            return end
        token = text[start:end]
        first = token[:1]
        if first == _QUOTE:
            self._begin_string(examined=examined)
            self._pass(token, out)
        elif first in (b"{", b"["):
            self._open(token, out, examined=examined)
        elif first in (b"}", b"]"):
            self._close(token, out)
        elif examined:
            self._read_separator_or_scalar(token, out)
        return end

    def _read_separator_or_scalar(self, token: bytes, out: bytearray) -> None:
        is_scalar = not token.endswith((b",", b":"))
        if not is_scalar:
            self._end_scalar(out)
        elif self._has_colon:
            self._begin_value(is_scalar=True)
        self._pass(token, out)
        if token == b",":
            self._has_colon = False
        elif token == b":":
            self._has_colon = True

    def _begin_string(self, *, examined: bool) -> None:
        self._in_string = True
        if examined and self._has_colon:
            self._begin_value()
        elif examined and self._depth:
            self._name_text = bytearray()

    def _read_string(self, text: bytes, at: int, out: bytearray) -> int:
        found = _REST_OF_STRING.match(text, at)
        end = len(text) if found is None else found.end()
        ended = text.startswith(_QUOTE, end)
        if ended:
            self._in_string = False
            end += 1
        elif end < len(text):  # the first half of an escape
            self._tail = text[end:]
        piece = text[at:end]
        if self._name_text is not None and len(self._name_text) <= _MAX_NAME_BYTES:
            self._name_text += piece
        self._pass(piece, out)
        if not ended:
            return end
        if self._name_text is not None:
            self._name = _decoded(bytes(self._name_text))
            self._name_text = None
        elif self._value is not None and self._value_depth == self._depth:
            self._end_value(out)
        return end

    def _open(self, token: bytes, out: bytearray, *, examined: bool) -> None:
        child = (*self._container, self._name) if self._depth else ()
        is_member = examined and (self._has_colon or not self._depth)
        if is_member and self._depth:
            self._begin_value()
        self._pass(token, out)
        self._depth += 1
        if is_member and token == b"{" and (not child or child in self._prefixes):
            self._container, self._container_depth = child, self._depth
            self._has_colon = False

    def _close(self, token: bytes, out: bytearray) -> None:
        self._end_scalar(out)
        self._pass(token, out)
        if not self._depth:
            return
        self._depth -= 1
        if self._depth < self._container_depth:
            self._container, self._container_depth = self._container[:-1], self._depth
            self._has_colon = True  # until the next comma
        if self._value is not None and self._value_depth == self._depth:
            self._end_value(out)
        self.is_done = not self._depth

    def _pass(self, piece: bytes, out: bytearray) -> None:
        """Forward a piece, unless it is part of a value that is replaced; keep it if it is part of a value."""
        if self._value is None:
            out += piece
            return
        if len(self._value) + len(piece) > MAX_VALUE_BYTES:
            self._is_oversized = True
        if not self._is_oversized:
            self._value += piece
        if self._value_path not in self._replace:
            out += piece

    def _begin_value(self, *, is_scalar: bool = False) -> None:
        path = (*self._container, self._name)
        if self._value is None and (path in self._capture or path in self._replace):
            self._value = bytearray()
            self._value_path, self._value_depth = path, self._depth
            self._is_scalar, self._is_oversized = is_scalar, False

    def _end_scalar(self, out: bytearray) -> None:
        """End the current value if it is a number or a literal: only the next token shows where it ends."""
        if self._is_scalar and self._value is not None and self._value_depth == self._depth:
            self._end_value(out)

    def _end_value(self, out: bytearray) -> None:
        kept = b"" if self._value is None else bytes(self._value)
        self._value = None
        value = kept.rstrip() if self._is_scalar else kept
        self._is_scalar = False
        path = self._value_path
        text = _FIELD_NAME.sub(b"\n", value)
        if path in self._capture and not self._is_oversized:
            self.captured[path] = text
        if path in self._replace:
            out += self._replace[path](None if self._is_oversized else text)
            out += kept[len(value) :]


def _decoded(text: bytes) -> str:
    """Decode a name from its JSON text without the first quote. Return an empty string if it is too long or invalid."""
    if b"\\" not in text:
        return text[:-1].decode("utf-8", "replace") if text.endswith(_QUOTE) else ""
    try:
        name = json.loads(_QUOTE + text)
    except ValueError:
        return ""
    return name if isinstance(name, str) else ""
