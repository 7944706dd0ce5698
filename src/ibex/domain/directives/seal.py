"""Authenticated entries of a shared cache, which only a holder of the key can write.

A sealed entry is a format byte, the time of issue, an HMAC-SHA256 and the value. The HMAC also covers the organization,
the subject, its version and the time of issue, so an entry is not valid under another key of the cache, nor after its
lifetime. For a directive, subject and version are the agent and the epoch; for a received response, they are the
organization and the id.
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
DIRECTIVES: Final = b"directive cache 1"
"""The purpose of the key that seals directives."""
_NAME_BYTES: Final = 16


class Rejection(Enum):
    """The reason why an entry is not used."""

    UNVERIFIED = "unverified"
    """The HMAC is wrong: the entry was written or changed without the key, or moved from another place."""
    EXPIRED = "expired"
    """The HMAC is right, but the entry was issued more than one lifetime ago, or that far in the future."""


class Seal:
    """Seals entries with a key, and opens those of all its keys. The repr shows no key."""

    def __init__(self, secret: bytes, purpose: bytes = DIRECTIVES, *others: bytes) -> None:
        """Derive the key for a purpose from a secret, with HKDF-SHA256 (RFC 5869).

        Entries that were sealed with one of the ``others`` can be opened, too.
        """
        self._purpose = purpose
        self._keys: tuple[bytes, ...] = ()
        self.replace(secret, *others)

    def replace(self, secret: bytes, *others: bytes) -> None:
        """Use another secret from now on. Entries of the former one and of the ``others`` can be opened, too."""
        former = self._keys[:1]
        self._keys = tuple(dict.fromkeys((*(hkdf(one, self._purpose) for one in (secret, *others)), *former)))

    def name(self, epoch: str) -> str:
        """Return a name for the entries of an epoch. It depends on the key, so entries of other keys never collide."""
        return hmac.digest(self._keys[0], b"name" + _bytes(epoch), "sha256")[:_NAME_BYTES].hex()

    def close(self, org_id: UUID, subject: UUID, version: str, issued_ms: int, value: bytes) -> bytes:
        """Return the sealed entry. ``issued_ms`` is the wall-clock time in milliseconds since 1970."""
        time = issued_ms.to_bytes(_TIME_BYTES, "big")
        return _FORMAT + time + _mac(self._keys[0], org_id, subject, version, time, value) + value

    def open(
        self, org_id: UUID, subject: UUID, version: str, now_ms: int, ttl_ms: int, sealed: bytes
    ) -> bytes | Rejection:
        """Return the value if the HMAC is right and the entry was issued within one lifetime of now."""
        time, mac, value = sealed[1 : 1 + _TIME_BYTES], sealed[1 + _TIME_BYTES : _HEAD_BYTES], sealed[_HEAD_BYTES:]
        if sealed[:1] != _FORMAT:
            return Rejection.UNVERIFIED
        entry = (org_id, subject, version, time, value)
        if not any(hmac.compare_digest(mac, _mac(key, *entry)) for key in self._keys):
            return Rejection.UNVERIFIED
        if abs(now_ms - int.from_bytes(time, "big")) > ttl_ms:
            return Rejection.EXPIRED
        return value


def _mac(key: bytes, org_id: UUID, subject: UUID, version: str, time: bytes, value: bytes) -> bytes:
    encoded = _bytes(version)
    length = len(encoded).to_bytes(8, "big")  # prevents two different inputs with the same concatenation
    message = b"".join((b"entry", org_id.bytes, subject.bytes, length, encoded, time, value))
    return hmac.digest(key, message, "sha256")


def _bytes(epoch: str) -> bytes:
    return epoch.encode(errors="surrogateescape")


def hkdf(secret: bytes, purpose: bytes) -> bytes:
    """Derive a key of 32 bytes with HKDF-SHA256 (RFC 5869): extract, then expand."""
    extracted = hmac.digest(_SALT, secret, hashlib.sha256)
    return hmac.digest(extracted, purpose + b"\x01", hashlib.sha256)
