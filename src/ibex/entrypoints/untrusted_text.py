"""Sanitizing of untrusted text for terminals: text of a model, a client, a server or a database (ADR 0043).

Control characters can clear the screen, set the clipboard or reorder what is shown. Each is replaced by a replacement
character. No script needs them in a word. Joiners, which some scripts and emoji need, stay.
"""

from __future__ import annotations

import re
from typing import Final

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
# C0 except tab and newline, DEL and C1; bidirectional marks, embeddings, overrides and isolates; line and paragraph
# separators; annotations; surrogates, which cannot be encoded.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]"
)


def sanitize(text: object) -> str:
    """Return a text that is safe to print, with its newlines and tabs."""
    return _UNSAFE.sub(REPLACEMENT, str(text))


def sanitize_line(text: object) -> str:
    """Return a text that is safe in a line or a table: printable characters only."""
    said = str(text)
    if said.isprintable():
        return said
    return "".join(character if character.isprintable() else REPLACEMENT for character in said)


def sanitize_json(document: str) -> str:
    """Return an equal JSON document with control characters escaped."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
