"""Raw JSON: objects and arrays whose values keep the bytes that the client wrote (ADR 0003)."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Iterable


@value_object
class Member:
    """A member of a JSON object: its name, and the JSON text of its value as the client wrote it."""

    name: str
    raw: bytes

    def __repr__(self) -> str:
        return f"<Member {len(self.raw)} bytes>"


def encode_object(members: Iterable[Member]) -> bytes:
    """Return the JSON object with these members, in this order. The bytes of the values do not change."""
    parts = [b"{"]
    for member in members:
        parts += encode_basestring_ascii(member.name).encode(), b":", member.raw, b","
    return _joined(parts, b"}")


def encode_array(elements: Iterable[bytes]) -> bytes:
    """Return the JSON array of these elements, each given as JSON text."""
    parts = [b"["]
    for element in elements:
        parts += element, b","
    return _joined(parts, b"]")


def _joined(parts: list[bytes], end: bytes) -> bytes:
    """Replace the last comma, if there is one, with the end. Joins once, because a part may have megabytes."""
    parts[max(1, len(parts) - 1) :] = [end]
    return b"".join(parts)


def put(members: tuple[Member, ...], member: Member) -> tuple[Member, ...]:
    """Return the members with ``member`` in place of those of the same name, or at the end if there are none."""
    name = member.name
    if name in [m.name for m in members]:
        return tuple([member if m.name == name else m for m in members])
    return (*members, member)
