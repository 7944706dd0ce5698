"""Random identifiers and secrets from the operating system."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from ibex.domain.ids import uuid7

if TYPE_CHECKING:
    from uuid import UUID


_ENTROPY_BYTES: Final = 10
_DRAWN_AT_ONCE: Final = 256


class SystemIds:
    """An ``IdSource`` over ``os.urandom`` and the wall clock. Threads can share it; processes cannot."""

    def __init__(self) -> None:
        self._entropy: deque[bytes] = deque()

    def uuid7(self) -> UUID:
        """Return a new UUIDv7.

        Entropy is drawn for 256 of them at once. A request needs four, and each draw releases the interpreter lock, for
        which a busy process must then wait.
        """
        try:
            entropy = self._entropy.popleft()
        except IndexError:
            drawn = os.urandom(_ENTROPY_BYTES * _DRAWN_AT_ONCE)
            first, *others = [drawn[at : at + _ENTROPY_BYTES] for at in range(0, len(drawn), _ENTROPY_BYTES)]
            self._entropy.extend(others)
            entropy = first
        return uuid7(time.time_ns() // 1_000_000, entropy)

    def secret(self) -> bytes:
        """Return 32 random bytes."""
        return secrets.token_bytes(32)
