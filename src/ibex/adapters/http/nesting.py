"""How much structure a JSON text has and how deeply it is nested, without building any of it.

The functions that return a generator work in steps of about a millisecond: between two of them the event loop may serve
other requests (ADR 0043).
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

SMALL_BYTES: Final = 64 << 10
"""What is looked at in one step."""
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
    """There are more brackets and commas outside of strings than the limit."""


def occur_more_than(limit: int, wanted: tuple[bytes, ...], text: bytes) -> bool:
    """Tell whether these bytes together occur more than ``limit`` times.

    Looking for one is thirty times as fast as counting all, and a long text has few brackets.
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
    """Tell whether arrays and objects in ``text``, which must be valid JSON, are nested more than ``limit`` deep.

    Linear in the text, and next to free where there are not even that many brackets. For texts of ``SMALL_BYTES``;
    ``check_depth`` looks at longer ones.
    """
    if not occur_more_than(limit, (b"[", b"{"), text):
        return False
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    steps = array("b", outside_strings.translate(_DEPTH_STEPS, _NO_BRACKETS))
    return any(map(limit.__lt__, accumulate(steps)))


def check_depth(limit: int, text: bytes) -> Generator[None, None, bool]:
    """Tell, in steps, what ``is_deeper_than`` tells, of a text of any length."""
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
    """Make sure, in steps, that parsing ``text`` takes a bounded time, before anything is parsed.

    Raises ``TooMuchStructureError`` for more than ``most`` brackets and commas outside of strings, and may raise
    ``TooDeepError`` for nesting beyond ``depth``. Counting those within strings too is ten times as fast as telling
    them apart, and enough for all but texts that hold programs or tables.
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
    """Read through ``text`` in steps. Raises ``TooMuchStructureError`` and ``TooDeepError``, as soon as it knows.

    What it says of a text that is not JSON means nothing.
    """
    begin, level, found, in_string = 0, 0, 0, 0
    while begin < len(text):
        piece = text[begin : begin + _STEP_BYTES]
        if piece.endswith(b"\\"):  # an escape is not to be cut into two
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
