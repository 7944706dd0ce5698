"""How deeply JSON is nested, without building any of it."""

from __future__ import annotations

from array import array
from itertools import accumulate

_BRACKETS = b"[]{}"
_STEPS = bytes.maketrans(_BRACKETS, bytes((1, 255, 1, 255)))
_ALL_ELSE = bytes(set(range(256)) - set(_BRACKETS))


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

    Linear in the text, and next to free where there are not even that many brackets.
    """
    if not occur_more_than(limit, (b"[", b"{"), text):
        return False
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    steps = array("b", outside_strings.translate(_STEPS, _ALL_ELSE))
    return any(map(limit.__lt__, accumulate(steps)))
