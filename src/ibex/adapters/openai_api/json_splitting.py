"""Taking JSON apart by one level: the parts stay the text that the client wrote (ADR 0003)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ibex.adapters.openai_api.nesting import occur_more_than

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_MEMBERS: Final = 1_024
MAX_ELEMENTS: Final = 4_096

NotJsonError = msgspec.DecodeError
NotThatTypeError = msgspec.ValidationError


_LONE_SURROGATE: Final = (
    "A string has a lone surrogate: \\ud800 to \\udbff and \\udc00 to \\udfff are valid in pairs only."
)
_HIGH_SURROGATE: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_POSITION: Final = re.compile(r"\(byte ([0-9]+)\)")
_SURROGATE_TAIL: Final = 16  # an escape, and less than another after it


class TooManyError(Exception):
    """An object has more members, or an array more elements, than it is worth keeping in memory."""


class _Name(str):
    """A member's name that equals no other, so that a dictionary keeps duplicates, in their order."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)


_SMALL_BYTES: Final = 64 * 1024
_DISTINCT: Final = msgspec.json.Decoder(dict[str, Raw])


def _is_all_there_is(members: dict[str, Raw], text: bytes | Raw) -> bool:
    """Tell, where it is certain, that an object has just these members, each once, without keeping names apart.

    A name that came twice is in ``members`` once, so that they alone, written without a space, are shorter than the
    text was. What clients' libraries write is as long; for all else it cannot be told.
    """
    length = 1
    for name, raw in members.items():
        length += len(name) + len(raw) + 4  # two quotes, a colon, and a comma or the bracket
    return length == len(text)


class ObjectSplitter:
    """Splits objects. Not to be shared between threads."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(dict[_Name, Raw], dec_hook=self._name)
        self._left = 0

    def split(self, text: bytes | Raw) -> list[tuple[str, Raw]]:
        """Return the members of an object, duplicates included.

        Raises ``NotThatTypeError`` for other JSON, ``NotJsonError`` (its superclass) for what is none, lone surrogates
        included, ``RecursionError`` for JSON that is some hundreds deep, and ``TooManyError``, early. Does not look
        whether strings are UTF-8.
        """
        if len(text) <= _SMALL_BYTES:
            found = _DISTINCT.decode(text)
            if len(found) <= MAX_MEMBERS and _is_all_there_is(found, text):
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
    """Return the elements of an array. ``text`` must be JSON; raises ``NotThatTypeError`` and, early, ``TooManyError``.

    A list of millions of tiny elements would take a hundred times its text in memory, so an array with enough commas to
    be too long is read into a structure of optional places: that gives up at the first element too many.
    """
    if len(text) <= MAX_ELEMENTS or not occur_more_than(MAX_ELEMENTS - 1, (b",",), text):
        return [bytes(element) for element in _ELEMENTS.decode(text)]
    if not text.startswith(b"["):
        raise NotThatTypeError
    try:
        places = _BOUNDED_ELEMENTS.decode(text)
    except NotThatTypeError:
        raise TooManyError from None
    elements: Iterable[Raw | UnsetType] = msgspec.structs.astuple(places)
    return [bytes(element) for element in elements if not isinstance(element, UnsetType)]


def why_not_json(body: bytes, error: NotJsonError) -> str:
    """Return why a body is not JSON: the parser's words, which name a position and quote nothing.

    Of a high surrogate without a low one, the parser says that the text, or an escape, ends too soon.
    """
    said = str(error)
    found = _POSITION.search(said)
    if found is None and not body[-_SURROGATE_TAIL:].rstrip().endswith(b"}"):
        return said
    ends = int(found[1]) + 1 if found is not None else len(body)
    lone = "end of hex escape" in said or found is None
    if "surrogate" in said or (lone and _HIGH_SURROGATE.search(body, max(0, ends - _SURROGATE_TAIL), ends)):
        return _LONE_SURROGATE
    return said
