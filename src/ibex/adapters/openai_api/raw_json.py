"""Raw JSON: splitting and joining objects and arrays whose parts keep the bytes that the client wrote (ADR 0003)."""

from __future__ import annotations

import re
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ibex.adapters.openai_api.nesting import occur_more_than
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_MEMBERS: Final = 1_024
MAX_ELEMENTS: Final = 4_096

NotJsonError = msgspec.DecodeError
WrongTypeError = msgspec.ValidationError


_LONE_SURROGATE: Final = (
    "A string has a lone surrogate: \\ud800 to \\udbff and \\udc00 to \\udfff are valid only in pairs."
)
_HIGH_SURROGATE: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_POSITION: Final = re.compile(r"\(byte ([0-9]+)\)")
_SURROGATE_TAIL: Final = 16  # an escape and an incomplete one after it


class TooManyError(Exception):
    """An object has more members, or an array more elements, than the limit."""


class _Name(str):
    """A member's name that equals only itself, so that a dictionary keeps duplicates, in their order."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


_SMALL_BYTES: Final = 64 * 1024
_DISTINCT: Final = msgspec.json.Decoder(dict[str, Raw])


def _has_exactly(members: dict[str, Raw], text: bytes | Raw) -> bool:
    """Return whether an object certainly has exactly these members, each once; False if that is uncertain.

    ``members`` contains a duplicate name only once, so that the members, written without white space, are shorter than
    the text. For the compact JSON of clients' libraries both have the same length. With white space in the text the
    result is False.
    """
    length = 1
    for name, raw in members.items():
        length += len(name) + len(raw) + 4  # two quotes, a colon, and a comma or the bracket
    return length == len(text)


class ObjectSplitter:
    """Splits JSON objects into their members. Not thread-safe."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(dict[_Name, Raw], dec_hook=self._name)
        self._left = 0

    def split(self, text: bytes | Raw) -> list[tuple[str, Raw]]:
        """Return the members of an object, duplicates included.

        Raises ``WrongTypeError`` if the text is JSON but not an object, ``NotJsonError`` (its superclass) if it is not
        JSON or has a lone surrogate, ``RecursionError`` if it is nested some hundreds of levels deep, and
        ``TooManyError`` as soon as a limit is exceeded. It does not check that strings are UTF-8.
        """
        if len(text) <= _SMALL_BYTES:
            found = _DISTINCT.decode(text)
            if len(found) <= MAX_MEMBERS and _has_exactly(found, text):
                return list(found.items())
        self._left = MAX_MEMBERS
        return [(str(name), raw) for name, raw in self._decoder.decode(text).items()]

    def _name(self, _kind: type, text: Any) -> _Name:
        self._left -= 1
        if self._left < 0:
            raise TooManyError
        return _Name(text)


_ELEMENTS = msgspec.json.Decoder(list[Raw])
_SLOTS: Final = tuple(f"e{index}" for index in range(MAX_ELEMENTS))
_BOUNDED_ELEMENTS = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Bounded", [(s, Raw | UnsetType, UNSET) for s in _SLOTS], array_like=True, forbid_unknown_fields=True
    )
)


def split_array(text: bytes) -> list[bytes]:
    """Return the elements of an array. ``text`` must be JSON. Raises ``WrongTypeError`` and ``TooManyError``.

    A list of millions of tiny elements would take a hundred times the memory of its text. An array with enough commas
    to exceed the limit is therefore parsed into a structure of optional slots, which fails at the first element beyond.
    """
    if len(text) <= MAX_ELEMENTS or not occur_more_than(MAX_ELEMENTS - 1, (b",",), text):
        return [bytes(element) for element in _ELEMENTS.decode(text)]
    if not text.startswith(b"["):
        raise WrongTypeError
    try:
        slots = _BOUNDED_ELEMENTS.decode(text)
    except WrongTypeError:
        raise TooManyError from None
    elements: Iterable[Raw | UnsetType] = msgspec.structs.astuple(slots)
    return [bytes(element) for element in elements if not isinstance(element, UnsetType)]


def describe_json_error(body: bytes, error: NotJsonError) -> str:
    """Return the reason why a body is not JSON: the parser's message, which gives a position but quotes no content.

    For a high surrogate without a low one, the parser reports a truncated text or escape. Replace that message.
    """
    message = str(error)
    found = _POSITION.search(message)
    if found is None and not body[-_SURROGATE_TAIL:].rstrip().endswith(b"}"):
        return message
    ends = int(found[1]) + 1 if found is not None else len(body)
    may_be_surrogate = "end of hex escape" in message or found is None
    if "surrogate" in message or (
        may_be_surrogate and _HIGH_SURROGATE.search(body, max(0, ends - _SURROGATE_TAIL), ends)
    ):
        return _LONE_SURROGATE
    return message


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
