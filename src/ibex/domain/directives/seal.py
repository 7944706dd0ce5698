"""Cache entries that only a holder of the key can write.

A sealed entry is a format byte, the time of issue, an HMAC-SHA256 and the value. The HMAC covers the organization, the
agent, the epoch and the time of issue as well, so an entry proves nothing in any other place, and nothing once it is
older than its lifetime.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

_FORMAT: Final = b"\x01"
_TIME_BYTES: Final = 8
_MAC_BYTES: Final = 32
_HEAD_BYTES: Final = len(_FORMAT) + _TIME_BYTES + _MAC_BYTES
_SALT: Final = b"ibex"
_PURPOSE: Final = b"directive cache 1"
_NAME_BYTES: Final = 16


class Rejection(Enum):
    """Why an entry is a miss."""

    UNVERIFIED = "unverified"
    """Somebody without the key wrote or changed it, or it belongs elsewhere."""
    EXPIRED = "expired"
    """It verifies, and was issued more than one lifetime ago, or that far in the future."""


class Seal:
    """Seals and opens entries with a key. The repr shows no key."""

    def __init__(self, secret: bytes) -> None:
        """Take the secret that the key is derived from, with HKDF-SHA256 (RFC 5869)."""
        self._key = hkdf(secret, _PURPOSE)

    def name(self, epoch: str) -> str:
        """Return a name for the entries of an epoch that depends on the key: other keys' entries do not meet them."""
        return hmac.digest(self._key, b"name" + _bytes(epoch), "sha256")[:_NAME_BYTES].hex()

    def close(self, org_id: UUID, agent_id: UUID, epoch: str, issued_ms: int, value: bytes) -> bytes:
        """Return the sealed entry; ``issued_ms`` is the time of day in milliseconds."""
        time = issued_ms.to_bytes(_TIME_BYTES, "big")
        return _FORMAT + time + self._mac(org_id, agent_id, epoch, time, value) + value

    def open(
        self, org_id: UUID, agent_id: UUID, epoch: str, now_ms: int, ttl_ms: int, sealed: bytes
    ) -> bytes | Rejection:
        """Return the value of an entry that verifies and was issued within one lifetime of now."""
        time, mac, value = sealed[1 : 1 + _TIME_BYTES], sealed[1 + _TIME_BYTES : _HEAD_BYTES], sealed[_HEAD_BYTES:]
        if sealed[:1] != _FORMAT or not hmac.compare_digest(mac, self._mac(org_id, agent_id, epoch, time, value)):
            return Rejection.UNVERIFIED
        if abs(now_ms - int.from_bytes(time, "big")) > ttl_ms:
            return Rejection.EXPIRED
        return value

    def _mac(self, org_id: UUID, agent_id: UUID, epoch: str, time: bytes, value: bytes) -> bytes:
        encoded = _bytes(epoch)
        length = len(encoded).to_bytes(8, "big")  # so that no byte can pass from one part to the next
        message = b"".join((b"entry", org_id.bytes, agent_id.bytes, length, encoded, time, value))
        return hmac.digest(self._key, message, "sha256")


def _bytes(epoch: str) -> bytes:
    return epoch.encode(errors="surrogateescape")


def hkdf(secret: bytes, purpose: bytes) -> bytes:
    """Return a key of 32 bytes by HKDF-SHA256 (RFC 5869): extract, then expand."""
    extracted = hmac.digest(_SALT, secret, hashlib.sha256)
    return hmac.digest(extracted, purpose + b"\x01", hashlib.sha256)
