"""Predictable identifiers and secrets."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ibex.domain.ids import uuid7

if TYPE_CHECKING:
    from uuid import UUID

_START_UNIX_MS = 1_767_323_045_000


class SequentialIds:
    """An ``IdSource`` that counts: the same calls return the same ids and secrets, each of them once.

    The ids are in the order of their creation, a millisecond apart. Sources with different seeds share no values.
    """

    def __init__(self, seed: int = 0) -> None:
        """Take a seed from 0 to 65,535; raise ``OverflowError`` for any other."""
        self._seed = seed.to_bytes(2)
        self._ids = 0
        self._secrets = 0

    def uuid7(self) -> UUID:
        """Return the next UUIDv7."""
        self._ids += 1
        return uuid7(_START_UNIX_MS + self._ids, self._seed + self._ids.to_bytes(8))

    def secret(self) -> bytes:
        """Return the next 32 bytes."""
        self._secrets += 1
        return hashlib.sha256(self._seed + self._secrets.to_bytes(8)).digest()
