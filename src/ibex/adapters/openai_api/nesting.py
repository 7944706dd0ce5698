"""Limits on the structure and the nesting of a JSON text, checked without parsing it.

The functions that return a generator work in steps of about a millisecond, between which the event loop can serve other
requests (ADR 0043).
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

SMALL_BYTES: Final = 64 << 10
"""The maximum size of a text that is checked in one step."""
_STEP_BYTES: Final = 16 << 10
_COUNTED_BYTES: Final = 1 << 20
_WEIGHTS: Final = ((b",", 1), (b"[", 2), (b"{", 2))
_BRACKETS = b"[]{}"
_SEPARATORS = b","
_STEPS = bytes.maketrans(_BRACKETS + _SEPARATORS, bytes((1, 255, 1, 255, 0)))
_ALL_ELSE = bytes(set(range(256)) - set(_BRACKETS + _SEPARATORS))
_DEPTH_STEPS = bytes.maketrans(_BRACKETS, bytes((1, 255, 1, 255)))
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


class TooDeepError(Exception):
    """Arrays and objects are nested deeper than the limit."""


class TooMuchStructureError(Exception):
    """The text has more brackets and commas outside strings than the limit."""


def occur_more_than(limit: int, wanted: tuple[bytes, ...], text: bytes) -> bool:
    """Return whether these bytes together occur more than ``limit`` times.

    Searching is thirty times as fast as counting, and a long text usually has few brackets.
    """
    found = 0
    for byte in wanted:
        at = text.find(byte)
        while at >= 0:
            found += 1
            if found > limit:
                return True
            at = text.find(byte, at + 1)
    return False


def is_deeper_than(limit: int, text: bytes) -> bool:
    """Return whether arrays and objects in ``text``, which must be valid JSON, are nested more than ``limit`` deep.

    Takes linear time, and almost none for a text with fewer brackets than ``limit``. For texts up to ``SMALL_BYTES``;
    use ``check_depth`` for longer ones.
    """
    if not occur_more_than(limit, (b"[", b"{"), text):
        return False
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    steps = array("b", outside_strings.translate(_DEPTH_STEPS, _NO_BRACKETS))
    return any(map(limit.__lt__, accumulate(steps)))


def check_depth(limit: int, text: bytes) -> Generator[None, None, bool]:
    """Return, in steps, whether a text of any length is nested more deeply than ``limit``."""
    if len(text) <= SMALL_BYTES:
        return is_deeper_than(limit, text)
    if not occur_more_than(limit, (b"[", b"{"), text):
        return False
    try:
        yield from scan(text, most=len(text), depth=limit)
    except TooDeepError:
        return True
    return False


def check_structure(text: bytes, *, most: int, depth: int) -> Generator[None, None, None]:
    """Check, in steps, that parsing ``text`` takes a bounded time.

    Raises ``TooMuchStructureError`` for more than ``most`` brackets and commas outside strings, and may raise
    ``TooDeepError`` for nesting beyond ``depth``. The first count includes strings, because that is ten times as fast.
    Only a text that exceeds the limit with them, such as source code or tables, is scanned.
    """
    found = 0
    for begin in range(0, len(text), _COUNTED_BYTES):
        end = begin + _COUNTED_BYTES
        for byte, weight in _WEIGHTS:
            if text.find(byte, begin, end) >= 0:  # thirty times as fast as counting
                found += weight * text.count(byte, begin, end)
        yield
        if found > most:
            yield from scan(text, most=most, depth=depth)
            return


def scan(text: bytes, *, most: int, depth: int) -> Generator[None, None, None]:
    """Scan ``text`` in steps. Raises ``TooMuchStructureError`` or ``TooDeepError`` as soon as a limit is exceeded.

    For a text that is not JSON the result is undefined.
    """
    begin, level, found, in_string = 0, 0, 0, 0
    while begin < len(text):
        piece = text[begin : begin + _STEP_BYTES]
        if piece.endswith(b"\\"):  # do not split an escape
            backslashes = len(piece) - len(piece.rstrip(b"\\"))
            if backslashes % 2:
                piece += text[begin + len(piece) : begin + len(piece) + 1]
        begin += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        steps = array("b", b"".join(parts[in_string::2]).translate(_STEPS, _ALL_ELSE))
        in_string ^= (len(parts) - 1) & 1
        found += len(steps)
        if found > most:
            raise TooMuchStructureError
        levels = list(accumulate(steps, initial=level))
        if max(levels) > depth:
            raise TooDeepError
        level = levels[-1]
        yield
