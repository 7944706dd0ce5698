"""Identifiers and secrets from the operating system's randomness."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING

from ibex.domain.ids import uuid7

if TYPE_CHECKING:
    from uuid import UUID


class SystemIds:
    """An ``IdSource`` over ``os.urandom`` and the wall clock."""

    def uuid7(self) -> UUID:
        """Return a new UUIDv7."""
        return uuid7(time.time_ns() // 1_000_000, os.urandom(10))

    def secret(self) -> bytes:
        """Return 32 random bytes."""
        return secrets.token_bytes(32)
