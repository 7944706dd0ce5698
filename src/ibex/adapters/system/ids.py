"""Identifiers and secrets from the operating system's randomness."""

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
_DRAWN_AT_A_TIME: Final = 256


class SystemIds:
    """An ``IdSource`` over ``os.urandom`` and the wall clock. For one process; threads may share it."""

    def __init__(self) -> None:
        self._entropy: deque[bytes] = deque()

    def uuid7(self) -> UUID:
        """Return a new UUIDv7. Its randomness is drawn for many at a time: a request takes four, and each draw waits.

        That is, it lets go of the interpreter lock, which a busy process gets back only from another thread.
        """
        try:
            entropy = self._entropy.popleft()
        except IndexError:
            drawn = os.urandom(_ENTROPY_BYTES * _DRAWN_AT_A_TIME)
            first, *others = [drawn[at : at + _ENTROPY_BYTES] for at in range(0, len(drawn), _ENTROPY_BYTES)]
            self._entropy.extend(others)
            entropy = first
        return uuid7(time.time_ns() // 1_000_000, entropy)

    def secret(self) -> bytes:
        """Return 32 random bytes."""
        return secrets.token_bytes(32)
