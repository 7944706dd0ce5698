"""Identifiers: time-ordered for new objects, name-based for sessions, so that a handle finds its session again."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, SafeUUID

if TYPE_CHECKING:
    from hashlib import _Hash

_UUID7_ENTROPY_BYTES = 10
_UUID7_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
_UUID7_RANDOM_BITS = (1 << 80) - 1 & ~(0xF << 76 | 0x3 << 62)
_SESSION_NAMESPACE = UUID("6f6d2f0e-2f62-5d0a-9a3c-1b0c9d5f7a11")


_UUID_FORMAT = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def parse_uuid(text: str) -> UUID | None:
    """Parse a UUID in the form 8-4-4-4-12; return None for any other text.

    ``UUID`` also accepts braces, ``urn:uuid:``, missing hyphens, underscores and digits of other scripts.
    """
    return UUID(text) if _UUID_FORMAT.fullmatch(text) else None


class IdSource(Protocol):
    """Port: a source of new identifiers and secrets. Never blocks, never raises."""

    def uuid7(self) -> UUID:
        """Return a new UUIDv7 (RFC 9562, section 5.7): ordered by creation time to the millisecond."""

    def secret(self) -> bytes:
        """Return 32 bytes from a cryptographically secure source."""


def uuid7(unix_ms: int, entropy: bytes) -> UUID:
    """Build a UUIDv7 (RFC 9562, section 5.7) from milliseconds since 1970 and 10 random bytes.

    Raises ``ValueError`` if the entropy has another length or the time does not fit into 48 bits.
    """
    if len(entropy) != _UUID7_ENTROPY_BYTES:
        raise ValueError(f"A UUIDv7 needs {_UUID7_ENTROPY_BYTES} bytes of entropy, not {len(entropy)}.")
    if not 0 <= unix_ms < 1 << 48:
        raise ValueError(f"A UUIDv7 has 48 bits for the milliseconds, too few for {unix_ms}.")
    value = unix_ms << 80 | int.from_bytes(entropy) & _UUID7_RANDOM_BITS | _UUID7_VERSION_AND_VARIANT
    # ``UUID(int=value)`` checks all of its arguments: 3.6 instead of 1.5 µs for an id, and a request needs up to four.
    made = object.__new__(UUID)
    object.__setattr__(made, "int", value)
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made


def session_id(org_id: UUID, agent_id: UUID, handle: str) -> UUID:
    """Return the id of the session that a client calls ``handle``, unique to its organization and agent."""
    hashed = _prefix_hash(org_id.int, agent_id.int).copy()
    hashed.update(handle.encode())
    return UUID(bytes=hashed.digest()[:16], version=5)


@lru_cache(maxsize=4_096)
def _prefix_hash(org_id: int, agent_id: int) -> _Hash:
    """Return the hash of a name-based UUID (RFC 9562, section 5.5) up to the handle; cached for each agent."""
    prefix = f"{UUID(int=org_id)}/{UUID(int=agent_id)}/".encode()
    return hashlib.sha1(_SESSION_NAMESPACE.bytes + prefix, usedforsecurity=False)
