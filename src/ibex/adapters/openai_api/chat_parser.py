"""A parser for chat completion requests. It reports all invalid fields at once (ADR 0043)."""

from __future__ import annotations

import asyncio
import codecs
import re
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from ibex.adapters.openai_api.chat_injection import Message, UserMessage
from ibex.adapters.openai_api.chat_request import INCLUDE_USAGE, MESSAGES, STREAM_OPTIONS, ChatRequest
from ibex.adapters.openai_api.nesting import (
    SMALL_BYTES,
    TooDeepError,
    TooMuchStructureError,
    check_depth,
    check_structure,
    is_deeper_than,
)
from ibex.adapters.openai_api.raw_json import (
    MAX_ELEMENTS,
    MAX_MEMBERS,
    Member,
    NotJsonError,
    ObjectSplitter,
    TooManyError,
    WrongTypeError,
    describe_json_error,
    split_array,
)
from ibex.domain.errors import MAX_FIELD_ERRORS, FieldCode, FieldError, InvalidJsonError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable

    from msgspec import Raw

MAX_MODEL_CHARACTERS: Final = 256
MAX_MESSAGES: Final = MAX_ELEMENTS
MAX_DEPTH: Final = 64
MAX_STRUCTURE: Final = 500_000
"""The maximum of brackets and commas outside strings. OpenAI's largest input, 300,000 numbers, is within it."""
MAX_TEMPERATURE: Final = 2
ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")

_TOKENS: Final = ("max_tokens", "max_completion_tokens")
_UNDERSTOOD: Final = frozenset({"model", MESSAGES, "stream", STREAM_OPTIONS, "temperature", *_TOKENS})
_UNDERSTOOD_IN_A_MESSAGE: Final = ("role", "content")
_UNDERSTOOD_IN_STREAM_OPTIONS: Final = frozenset({INCLUDE_USAGE})
_LONGEST_UNDERSTOOD: Final = max(map(len, _UNDERSTOOD))
# Names in OpenAI's API that do not case-fold to a parsed name. A lookup takes a quarter of the time of case folding.
_KNOWN_ORDINARY: Final = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "metadata",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "name",
        "refusal",
        "tool_call_id",
        "tool_calls",
        "include_obfuscation",
    }
)
_ORDINARY_IN_A_MESSAGE: Final = _KNOWN_ORDINARY.union(_UNDERSTOOD_IN_A_MESSAGE)
_ROLES_AS_WRITTEN: Final = {f'"{role}"'.encode(): role for role in ROLES}
_BOOLEANS: Final = {b"true": True, b"false": False, b"null": False}
_NULL: Final = b"null"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_INTEGER = re.compile(rb"-?[0-9]{1,18}")
_NUMBER_START: Final = frozenset(b"-0123456789")
_MAX_SCALAR_BYTES: Final = 64
_BYTES_PER_CHARACTER: Final = 12
"""A character outside the Basic Multilingual Plane can be written as two escapes of six bytes each."""
_TOO_DEEP: Final = f"must not be nested deeper than {MAX_DEPTH} levels"
_TOO_MUCH: Final = f"must have at most {MAX_STRUCTURE:,} brackets and commas outside strings"
_FOLDED: Final = "must be spelled exactly like this: the request has a member whose name differs from it only in case"
_LARGE_BYTES: Final = 2 << 20
"""The parser takes a few milliseconds for this size, whatever the content. Larger bodies are checked first."""
_UTF8_BYTES: Final = 1 << 20
_BYTES_PER_STEP: Final = 64 << 10
_BYTES_PER_MESSAGE: Final = 2 << 10
"""The fixed cost of parsing a message, about 4 µs, expressed as a length in bytes."""
_SPLITTER: Final = ObjectSplitter()


async def parse_in_steps(body: bytes) -> ChatRequest:
    """Parse a body and return the request. Yields to the event loop between the steps of a large one.

    Raises ``InvalidJsonError`` if the body is not one JSON object in UTF-8, and ``ValidationError`` for invalid fields.
    """
    parsing = chat_request_steps(body)
    while True:
        try:
            next(parsing)
        except StopIteration as done:
            request: ChatRequest = done.value
            return request
        await asyncio.sleep(0)


def chat_request_steps(body: bytes) -> Generator[None, None, ChatRequest]:
    """Parse a request in steps. A body of a few KiB takes one; no step takes longer than one pass over the body."""
    members = yield from _members(body)
    parser = _FieldParser()
    fields = parser.understood(members, _UNDERSTOOD, "")
    model = parser.model(fields.get("model", _NULL))
    messages, first_user = yield from parser.messages(fields.get(MESSAGES, _NULL))
    stream = parser.boolean("stream", fields["stream"]) if "stream" in fields else False
    stream_options = parser.stream_options(fields[STREAM_OPTIONS]) if STREAM_OPTIONS in fields else ()
    if "temperature" in fields:
        parser.temperature(fields["temperature"])
    for name in _TOKENS:
        if name in fields:
            parser.tokens(name, fields[name])
    if parser.errors:
        raise ValidationError(tuple(parser.errors))
    return ChatRequest(
        model=model,
        is_streaming=stream,
        body=body,
        members=members,
        messages=messages,
        raw_messages=fields[MESSAGES],
        first_user=first_user,
        stream_options=stream_options,
    )


def _members(body: bytes) -> Generator[None, None, tuple[Member, ...]]:
    try:
        if len(body) > _LARGE_BYTES:
            yield from _check_large_body(body)
        elif not body.isascii():
            body.decode()
    except UnicodeDecodeError:
        raise InvalidJsonError(detail="The request body is not valid UTF-8.") from None
    kept = _split(body)
    if len(body) > _BYTES_PER_STEP:
        yield
    # ``messages`` is checked one message at a time: most have too few brackets to be nested too deeply.
    for member in kept:
        if len(member.raw) >= MAX_DEPTH and member.name != MESSAGES:
            too_deep = yield from check_depth(MAX_DEPTH - 1, member.raw)
            if too_deep:
                raise _too_deep()
    return kept


def _split(body: bytes) -> tuple[Member, ...]:
    try:
        return _kept(_SPLITTER.split(body))
    except RecursionError:
        raise _too_deep() from None
    except TooManyError:
        raise _wrong("body", FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members") from None
    except NotJsonError as error:
        raise InvalidJsonError(detail=describe_json_error(body, error)) from None


def _check_large_body(body: bytes) -> Generator[None, None, None]:
    """Check that parsing a body takes a bounded time. Raises ``UnicodeDecodeError`` and ``ValidationError``."""
    try:
        yield from check_structure(body, most=MAX_STRUCTURE, depth=MAX_DEPTH)
    except TooDeepError:
        raise _too_deep() from None
    except TooMuchStructureError:
        raise _wrong("body", FieldCode.TOO_MANY, _TOO_MUCH) from None
    if not body.isascii():
        view, begin = memoryview(body), 0
        while begin < len(body):
            end = begin + _UTF8_BYTES
            begin += codecs.utf_8_decode(view[begin:end], "strict", end >= len(body))[1]
            yield


def _kept(members: Iterable[tuple[str, Raw]]) -> tuple[Member, ...]:
    return tuple([Member(name, bytes(raw)) for name, raw in members])


def _wrong(field: str, code: FieldCode, message: str) -> ValidationError:
    return ValidationError((FieldError(field, code, message),))


def _too_deep() -> ValidationError:
    return _wrong("body", FieldCode.INVALID_FORMAT, _TOO_DEEP)


class _FieldParser:
    """A parser for the fields that collects their errors. For an invalid field it returns any value of its type.

    Raises ``ValidationError`` as soon as there are ``MAX_FIELD_ERRORS`` errors.
    """

    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def _refuse(self, field: str, code: FieldCode, message: str) -> None:
        self.errors.append(FieldError(field, code, message))
        if len(self.errors) >= MAX_FIELD_ERRORS:
            raise ValidationError(tuple(self.errors))

    def understood(self, members: Iterable[Member], names: frozenset[str], path: str) -> dict[str, bytes]:
        """Return the members with these names.

        Reports an error for a duplicate, and for a name that case-folds to one of these: a server that ignores case
        may read either of the two.
        """
        found: dict[str, bytes] = {}
        for member in members:
            name = member.name
            if name not in names:
                if name not in _KNOWN_ORDINARY:
                    self._refuse_folded(name, names, path)
                continue
            if name in found:
                self._refuse(path + name, FieldCode.INVALID_FORMAT, "must not be given more than once")
            found[name] = member.raw
        return found

    def _refuse_folded(self, name: str, names: Collection[str], path: str) -> None:
        if len(name) <= _LONGEST_UNDERSTOOD and (folded := name.casefold()) in names:  # folding never shortens a name
            self._refuse(path + folded, FieldCode.INVALID_FORMAT, _FOLDED)

    def model(self, raw: bytes) -> str:
        if raw == _NULL:
            self._refuse("model", FieldCode.REQUIRED, "is required")
            return ""
        if len(raw) > _BYTES_PER_CHARACTER * (MAX_MODEL_CHARACTERS + 1) and raw.startswith(b'"'):
            self._refuse("model", FieldCode.TOO_LONG, f"must have at most {MAX_MODEL_CHARACTERS} characters")
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

    def messages(self, raw: bytes) -> Generator[None, None, tuple[tuple[Message, ...], UserMessage | None]]:
        if raw == _NULL:
            self._refuse(MESSAGES, FieldCode.REQUIRED, "is required")
            return (), None
        try:
            elements = split_array(raw)
        except WrongTypeError:
            self._refuse(MESSAGES, FieldCode.INVALID_FORMAT, "must be an array")
            return (), None
        except TooManyError:
            self._refuse(MESSAGES, FieldCode.TOO_MANY, f"must have at most {MAX_MESSAGES} elements")
            return (), None
        if not elements:
            self._refuse(MESSAGES, FieldCode.REQUIRED, "must not be empty")
        messages = []
        first_user = None
        done_bytes = len(raw)
        for index, element in enumerate(elements):
            done_bytes += len(element) + _BYTES_PER_MESSAGE
            if done_bytes > _BYTES_PER_STEP:
                yield
                done_bytes = 0
            if len(element) <= SMALL_BYTES:
                too_deep = is_deeper_than(MAX_DEPTH - 2, element)
            else:
                too_deep = yield from check_depth(MAX_DEPTH - 2, element)
            members = self._message_members(index, element, too_deep=too_deep)
            if members is None:
                continue
            message = Message(self._role(index, members), element)
            if first_user is None and message.role == "user":
                first_user = UserMessage(index, partial(_kept, members))
            messages.append(message)
        return tuple(messages), first_user

    def _message_members(self, index: int, element: bytes, *, too_deep: bool) -> list[tuple[str, Raw]] | None:
        if too_deep:  # the request and its array are two levels
            self._refuse(f"{MESSAGES}[{index}]", FieldCode.INVALID_FORMAT, _TOO_DEEP)
            return None
        try:
            return _SPLITTER.split(element)
        except WrongTypeError:
            self._refuse(f"{MESSAGES}[{index}]", FieldCode.INVALID_FORMAT, "must be an object")
        except TooManyError:
            self._refuse(f"{MESSAGES}[{index}]", FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members")
        return None

    def _role(self, index: int, members: list[tuple[str, Raw]]) -> str:
        if len(members) == 2 and members[0][0] == "role" and members[1][0] == "content":  # noqa: PLR2004 - most messages
            role = _role_as_written(members[0][1])
            if role is not None:
                return role
        names = [name for name, _ in members]
        path = f"{MESSAGES}[{index}]."
        if len(members) != len(set(names)):
            for name in _UNDERSTOOD_IN_A_MESSAGE:
                if names.count(name) > 1:
                    self._refuse(path + name, FieldCode.INVALID_FORMAT, "must not be given more than once")
        if not _ORDINARY_IN_A_MESSAGE.issuperset(names):
            for name in names:
                if name not in _ORDINARY_IN_A_MESSAGE:
                    self._refuse_folded(name, _UNDERSTOOD_IN_A_MESSAGE, path)
        raw = members[names.index("role")][1] if "role" in names else _NULL
        role = _role_as_written(raw)
        if role is None:
            self._refuse_role(bytes(raw), path)
        return role or ""

    def _refuse_role(self, raw: bytes, path: str) -> None:
        if raw == _NULL:
            self._refuse(path + "role", FieldCode.REQUIRED, "is required")
        elif not raw.startswith(b'"'):
            self._refuse(path + "role", FieldCode.INVALID_FORMAT, "must be a string")
        else:
            self._refuse(path + "role", FieldCode.INVALID_ENUM, f"must be one of {', '.join(ROLES)}")

    def boolean(self, field: str, raw: bytes) -> bool:
        value = _BOOLEANS.get(raw) if len(raw) <= _MAX_SCALAR_BYTES else None  # hashing reads the whole value
        if value is None:
            self._refuse(field, FieldCode.INVALID_FORMAT, "must be a boolean")
        return value or False

    def stream_options(self, raw: bytes) -> tuple[Member, ...]:
        if raw == _NULL:
            return ()
        try:
            members = _kept(_SPLITTER.split(raw))
        except WrongTypeError:
            self._refuse(STREAM_OPTIONS, FieldCode.INVALID_FORMAT, "must be an object")
            return ()
        except TooManyError:
            self._refuse(STREAM_OPTIONS, FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members")
            return ()
        path = f"{STREAM_OPTIONS}."
        found = self.understood(members, _UNDERSTOOD_IN_STREAM_OPTIONS, path)
        self.boolean(path + INCLUDE_USAGE, found.get(INCLUDE_USAGE, _NULL))
        return members

    def temperature(self, raw: bytes) -> None:
        is_number = raw[0] in _NUMBER_START and len(raw) <= _MAX_SCALAR_BYTES
        if raw != _NULL and not (is_number and 0 <= float(raw) <= MAX_TEMPERATURE):
            allowed = f"must be a number from 0 to {MAX_TEMPERATURE}"
            self._refuse("temperature", FieldCode.INVALID_FORMAT, allowed)

    def tokens(self, field: str, raw: bytes) -> None:
        """Accept any integer of up to 18 digits. To servers compatible with OpenAI, 0 and -1 have a meaning."""
        if raw != _NULL and not _INTEGER.fullmatch(raw):
            self._refuse(field, FieldCode.INVALID_FORMAT, "must be an integer")


def _text(raw: bytes) -> str | None:
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else None


def _role_as_written(raw: bytes | Raw) -> str | None:
    """Return the role, which may be written with escapes; None if it is not one of ``ROLES``."""
    if len(raw) > _MAX_SCALAR_BYTES:
        return None
    written = bytes(raw)
    role = _ROLES_AS_WRITTEN.get(written)
    if role is None and b"\\" in written:
        role = _text(written)
    return role if role in ROLES else None
