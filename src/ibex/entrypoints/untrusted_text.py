"""Sanitizing of untrusted text for terminals: text of a model, a client, a server or a database (ADR 0043).

Control characters can clear the screen, set the clipboard or reorder text. Each becomes a replacement character. No
script needs them within a word. Joiners, which some scripts and emoji need, are kept.
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
    """Return the text with unsafe characters replaced. Newlines and tabs are kept."""
    return _UNSAFE.sub(REPLACEMENT, str(text))


def sanitize_line(text: object) -> str:
    """Return the text with every unprintable character replaced, for one line or a table cell."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else REPLACEMENT for character in line)


def sanitize_json(document: str) -> str:
    """Return an equivalent JSON document with unsafe characters escaped."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
