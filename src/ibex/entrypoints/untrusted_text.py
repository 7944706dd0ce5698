"""Text of others on this terminal: what a model, a client, a server or a database said (ADR 0043).

A terminal obeys what is in it: a control character clears the screen, sets the clipboard, or shows what is there in
another order. Each such character is shown as a replacement character. None is a part of a word in any script; joiners,
which some scripts and emoji need, stay.
"""

from __future__ import annotations

import re
from typing import Final

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
# C0 but tab and newline, DEL and C1; marks, embeddings, overrides and isolates of direction; line and paragraph
# separators; annotations; surrogates, which cannot be written at all.
_OBEYED: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]"
)


def sanitize(text: object) -> str:
    """Return a text as it can be printed, with its lines and tabs."""
    return _OBEYED.sub(REPLACEMENT, str(text))


def sanitize_line(text: object) -> str:
    """Return a text as it can stand in a line or a table: nothing but what is visible, and spaces."""
    said = str(text)
    if said.isprintable():
        return said
    return "".join(character if character.isprintable() else REPLACEMENT for character in said)


def sanitize_json(document: str) -> str:
    """Return a JSON document that says the same, with escapes for what a terminal would obey."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
