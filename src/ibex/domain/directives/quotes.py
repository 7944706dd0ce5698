"""Recognizing a directive in a text that the provider wrote, such as a refusal that repeats the request."""

from __future__ import annotations

import re
from typing import Final

_SHORTEST: Final = 24
"""The number of consecutive letters and digits of a directive that count as a quote; a shorter one counts whole."""
_MAX_CHARACTERS: Final = 65_536
_OTHER: Final = re.compile(r"[\W_]+")


def quotes(text: str, directive: str) -> bool:
    """Return whether a text quotes a directive, whatever its quotation marks, escapes, spaces and case.

    Takes a few milliseconds for texts of 64 KiB, the part that is compared.
    """
    letters, own = _letters(text), _letters(directive)
    if len(own) <= _SHORTEST:
        return bool(own) and own in letters
    parts = {letters[start : start + _SHORTEST] for start in range(len(letters) - _SHORTEST + 1)}
    return any(own[start : start + _SHORTEST] in parts for start in range(len(own) - _SHORTEST + 1))


def _letters(text: str) -> str:
    return _OTHER.sub("", text[:_MAX_CHARACTERS].replace("\\n", " ").replace("\\t", " ").replace("\\r", " ")).casefold()
