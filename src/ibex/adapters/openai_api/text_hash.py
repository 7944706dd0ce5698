"""Hashes of the texts of a response, computed while it passes. No text is kept.

The hash of a response with one text is the SHA-256 of the text's UTF-8; with several texts, the hash of their hashes in
the order of their keys. A lone surrogate, which JSON can escape but UTF-8 cannot encode, counts as three bytes.
"""

from __future__ import annotations

import hashlib
from typing import Final, Generic, TypeVar

_MAX_TEXTS: Final = 128  # OpenAI's limit for ``n``; it bounds the memory that a broken provider can use

K = TypeVar("K", int, tuple[int, int])


class TextHashes(Generic[K]):
    """The running hashes of a response's texts. Keys beyond the first ``_MAX_TEXTS`` are ignored."""

    def __init__(self) -> None:
        self._texts: dict[K, TextHash] = {}

    def __bool__(self) -> bool:
        return bool(self._texts)

    def add(self, key: K, text: str) -> None:
        """Add a part, which must not be empty, to the text with this key."""
        hashed = self._texts.get(key)
        if hashed is None:
            if len(self._texts) == _MAX_TEXTS:
                return
            hashed = self._texts[key] = TextHash()
        hashed.add(text)

    def get(self, key: K) -> TextHash | None:
        """Return the running hash of one text; None before its first part."""
        return self._texts.get(key)

    def hexdigest(self) -> str | None:
        """Return the hash of all texts so far; None if there are none."""
        digests = [self._texts[key].hexdigest() for key in sorted(self._texts)]
        if len(digests) > 1:
            return hashlib.sha256("".join(digests).encode()).hexdigest()
        return digests[0] if digests else None


class TextHash:
    """The running hash of one text. Splitting the text, even in a surrogate pair, does not change it."""

    __slots__ = ("_hash", "_high")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._high = ""

    def add(self, text: str) -> None:
        """Add a part of the text, which must not be empty."""
        if self._high:
            joined = (self._high + text).encode("utf-16-le", "surrogatepass")
            text, self._high = joined.decode("utf-16-le", "surrogatepass"), ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._high = text[:-1], text[-1]
        self._hash.update(text.encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """Return the hash of the text so far."""
        whole = self._hash.copy()
        whole.update(self._high.encode("utf-8", "surrogatepass"))
        return whole.hexdigest()
