"""From the bytes of a body to a ``ChatRequest``; all that is wrong with it is told at once (spec 3, "Validation")."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from ibex.adapters.http.json_splitting import (
    MAX_ELEMENTS,
    MAX_MEMBERS,
    NotJsonError,
    NotThatTypeError,
    ObjectSplitter,
    TooManyError,
    split_array,
)
from ibex.adapters.http.nesting import is_deeper_than
from ibex.domain.chat import INCLUDE_USAGE, MESSAGES, STREAM_OPTIONS, ChatRequest, Member, Message, UserMessage
from ibex.domain.errors import FieldCode, FieldError, InvalidJsonError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msgspec import Raw

MAX_MODEL_CHARACTERS: Final = 256
MAX_MESSAGES: Final = MAX_ELEMENTS
MAX_DEPTH: Final = 64
MAX_TEMPERATURE: Final = 2
MAX_TOKENS: Final = 1_048_576
ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")

_UNDERSTOOD: Final = frozenset(
    {"model", MESSAGES, "stream", STREAM_OPTIONS, "temperature", "max_tokens", "max_completion_tokens"}
)
_TOKENS: Final = ("max_tokens", "max_completion_tokens")
_UNDERSTOOD_IN_A_MESSAGE: Final = ("role", "content")
_ROLES_AS_WRITTEN: Final = {f'"{role}"'.encode(): role for role in ROLES}
_BOOLEANS: Final = {b"true": True, b"false": False, b"null": False}
_NULL: Final = b"null"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_INTEGER = re.compile(rb"[0-9]{1,7}")
_NUMBER_START: Final = frozenset(b"-0123456789")
_MAX_NUMBER_BYTES: Final = 64
_TOO_DEEP: Final = f"must not be nested deeper than {MAX_DEPTH} levels"
_SPLITTER: Final = ObjectSplitter()


def read_chat_request(body: bytes) -> ChatRequest:
    """Return the request that a body is.

    Raises ``InvalidJsonError`` if it is not one JSON object in UTF-8, and ``ValidationError`` for wrong fields.
    """
    members = _members(body)
    reading = _Reading()
    fields = reading.understood(members, _UNDERSTOOD, "")
    model = reading.model(fields.get("model", _NULL))
    messages, first_user = reading.messages(fields.get(MESSAGES, _NULL))
    stream = reading.boolean("stream", fields["stream"]) if "stream" in fields else False
    stream_options = reading.stream_options(fields[STREAM_OPTIONS]) if STREAM_OPTIONS in fields else ()
    if "temperature" in fields:
        reading.temperature(fields["temperature"])
    for name in _TOKENS:
        if name in fields:
            reading.tokens(name, fields[name])
    if reading.errors:
        raise ValidationError(tuple(reading.errors))
    return ChatRequest(
        model=model,
        stream=stream,
        body=body,
        members=members,
        messages=messages,
        raw_messages=fields[MESSAGES],
        first_user=first_user,
        stream_options=stream_options,
    )


def _members(body: bytes) -> tuple[Member, ...]:
    try:
        if not body.isascii():
            body.decode()
    except UnicodeDecodeError:
        raise InvalidJsonError(detail="The body is not UTF-8.") from None
    try:
        members = _SPLITTER.split(body)
    except RecursionError:
        raise _too_deep() from None
    except TooManyError:
        raise _wrong("body", FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members") from None
    except NotJsonError as error:
        raise InvalidJsonError(detail=str(error)) from None  # names a position, quotes nothing
    kept = _kept(members)
    # Messages are looked at one by one: most of them have so few brackets that nothing needs to be looked at.
    for member in kept:
        if len(member.raw) >= MAX_DEPTH and member.name != MESSAGES and is_deeper_than(MAX_DEPTH - 1, member.raw):
            raise _too_deep()
    return kept


def _kept(members: Iterable[tuple[str, Raw]]) -> tuple[Member, ...]:
    return tuple([Member(name, bytes(raw)) for name, raw in members])


def _wrong(field: str, code: FieldCode, message: str) -> ValidationError:
    return ValidationError((FieldError(field, code, message),))


def _too_deep() -> ValidationError:
    return _wrong("body", FieldCode.INVALID_FORMAT, _TOO_DEEP)


class _Reading:
    """Understands fields one by one and remembers what is wrong. A wrong field's value is any of its type."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def _refuse(self, field: str, code: FieldCode, message: str) -> None:
        self.errors.append(FieldError(field, code, message))

    def understood(self, members: Iterable[Member], names: frozenset[str], path: str) -> dict[str, bytes]:
        """Return the members that have these names. A second one of a name is refused: nobody knows which counts."""
        found: dict[str, bytes] = {}
        for member in members:
            if member.name not in names:
                continue
            if member.name in found:
                self._refuse(path + member.name, FieldCode.INVALID_FORMAT, "must not be given more than once")
            found[member.name] = member.raw
        return found

    def model(self, raw: bytes) -> str:
        if raw == _NULL:
            self._refuse("model", FieldCode.REQUIRED, "is required")
            return ""
        model = _text(raw)
        if model is None or _CONTROL.search(model):
            self._refuse("model", FieldCode.INVALID_FORMAT, "must be a string without control characters")
            return ""
        if not model:
            self._refuse("model", FieldCode.REQUIRED, "must not be empty")
        if len(model) > MAX_MODEL_CHARACTERS:
            self._refuse("model", FieldCode.TOO_LONG, f"must have at most {MAX_MODEL_CHARACTERS} characters")
        return model

    def messages(self, raw: bytes) -> tuple[tuple[Message, ...], UserMessage | None]:
        if raw == _NULL:
            self._refuse(MESSAGES, FieldCode.REQUIRED, "is required")
            return (), None
        try:
            elements = split_array(raw)
        except NotThatTypeError:
            self._refuse(MESSAGES, FieldCode.INVALID_FORMAT, "must be an array")
            return (), None
        except TooManyError:
            self._refuse(MESSAGES, FieldCode.TOO_MANY, f"must have at most {MAX_MESSAGES} elements")
            return (), None
        if not elements:
            self._refuse(MESSAGES, FieldCode.REQUIRED, "must not be empty")
        messages = []
        first_user = None
        for index, element in enumerate(elements):
            members = self._message_members(index, element)
            if members is None:
                continue
            message = Message(self._role(index, members), element)
            if first_user is None and message.role == "user":
                first_user = UserMessage(index, partial(_kept, members))
            messages.append(message)
        return tuple(messages), first_user

    def _message_members(self, index: int, element: bytes) -> list[tuple[str, Raw]] | None:
        if is_deeper_than(MAX_DEPTH - 2, element):  # the request and its array are two levels
            self._refuse(f"{MESSAGES}[{index}]", FieldCode.INVALID_FORMAT, _TOO_DEEP)
            return None
        try:
            return _SPLITTER.split(element)
        except NotThatTypeError:
            self._refuse(f"{MESSAGES}[{index}]", FieldCode.INVALID_FORMAT, "must be an object")
        except TooManyError:
            self._refuse(f"{MESSAGES}[{index}]", FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members")
        return None

    def _role(self, index: int, members: list[tuple[str, Raw]]) -> str:
        names = [name for name, _ in members]
        raw = bytes(members[names.index("role")][1]) if "role" in names else _NULL
        role = _ROLES_AS_WRITTEN.get(raw)
        if role is not None and len(members) == len(set(names)):
            return role
        path = f"{MESSAGES}[{index}]."
        for name in _UNDERSTOOD_IN_A_MESSAGE:
            if names.count(name) > 1:
                self._refuse(path + name, FieldCode.INVALID_FORMAT, "must not be given more than once")
        role = role or _text(raw)
        if role in ROLES:
            return role
        if raw == _NULL:
            self._refuse(path + "role", FieldCode.REQUIRED, "is required")
        elif role is None:
            self._refuse(path + "role", FieldCode.INVALID_FORMAT, "must be a string")
        else:
            self._refuse(path + "role", FieldCode.INVALID_ENUM, f"must be one of {', '.join(ROLES)}")
        return ""

    def boolean(self, field: str, raw: bytes) -> bool:
        if raw not in _BOOLEANS:
            self._refuse(field, FieldCode.INVALID_FORMAT, "must be a boolean")
        return _BOOLEANS.get(raw, False)

    def stream_options(self, raw: bytes) -> tuple[Member, ...]:
        if raw == _NULL:
            return ()
        try:
            members = _kept(_SPLITTER.split(raw))
        except NotThatTypeError:
            self._refuse(STREAM_OPTIONS, FieldCode.INVALID_FORMAT, "must be an object")
            return ()
        except TooManyError:
            self._refuse(STREAM_OPTIONS, FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members")
            return ()
        path = f"{STREAM_OPTIONS}."
        found = self.understood(members, frozenset({INCLUDE_USAGE}), path)
        self.boolean(path + INCLUDE_USAGE, found.get(INCLUDE_USAGE, _NULL))
        return members

    def temperature(self, raw: bytes) -> None:
        is_number = raw[0] in _NUMBER_START and len(raw) <= _MAX_NUMBER_BYTES
        if raw != _NULL and not (is_number and 0 <= float(raw) <= MAX_TEMPERATURE):
            allowed = f"must be a number from 0 to {MAX_TEMPERATURE}"
            self._refuse("temperature", FieldCode.INVALID_FORMAT, allowed)

    def tokens(self, field: str, raw: bytes) -> None:
        if raw != _NULL and not (_INTEGER.fullmatch(raw) and 1 <= int(raw) <= MAX_TOKENS):
            self._refuse(field, FieldCode.INVALID_FORMAT, f"must be an integer from 1 to {MAX_TOKENS}")


def _text(raw: bytes) -> str | None:
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else None
