"""Chunk templates: a fast path for the events of a stream, nearly all of which differ only in their text.

If an event has the same bytes as a parsed one, except for characters inside the string that is its text, it is the same
JSON with another text. Comparing it with a template takes a quarter of the time of parsing it.
"""

from __future__ import annotations

import re
from typing import Final

from ibex.domain.value_object import value_object

_NAME: Final = b'"content"'
_BEFORE_TEXT: Final = b'"content":"'
_BEFORE_PADDING: Final = b'"obfuscation":"'
"""Random padding that OpenAI appends to an event, so that packet sizes do not reveal the text. Its length varies."""
_PADDING: Final = re.compile(rb'[0-9A-Za-z]*"}')
_NOT_PLAIN: Final = re.compile(rb"[\x00-\x1f\\]")


@value_object
class ChunkTemplate:
    """The bytes of an event before and after its text. If ``is_padded`` is true, variable padding follows."""

    before: bytes
    after: bytes
    is_padded: bool

    def text_of(self, event: bytes) -> str | None:
        """Return the text of an event that matches this template; None for any other, and for a text with escapes."""
        if not event.startswith(self.before):
            return None
        begin = len(self.before)
        end = event.find(b'"', begin)
        after = event[end:]
        if after != self.after and not (
            self.is_padded and after.startswith(self.after) and _PADDING.fullmatch(after, len(self.after))
        ):
            return None
        text = event[begin:end]
        if _NOT_PLAIN.search(text):
            return None
        try:
            return text.decode()
        except UnicodeDecodeError:
            return None


def chunk_template_of(event: bytes, text: str) -> ChunkTemplate | None:
    """Return the template of an event, a JSON object, with this text; None if the text cannot be located safely."""
    before, found, rest = event.partition(_BEFORE_TEXT)
    if not found or before.endswith(b"\\") or event.count(_NAME) != 1:
        return None
    encoded = text.encode("utf-8", "replace")
    after = rest[len(encoded) :]
    if not rest.startswith(encoded) or not after.startswith(b'"') or _NOT_PLAIN.search(encoded):
        return None
    body, padded, padding = after.partition(_BEFORE_PADDING)
    if padded and _PADDING.fullmatch(padding):
        return ChunkTemplate(before + found, body + padded, is_padded=True)
    return ChunkTemplate(before + found, after, is_padded=False)
