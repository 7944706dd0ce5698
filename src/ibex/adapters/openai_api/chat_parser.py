"""A parser for chat completion requests. It reports all invalid fields at once (ADR 0043)."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from ibex.adapters.openai_api.body_parser import (
    BYTES_PER_STEP,
    MAX_DEPTH,
    MAX_SCALAR_BYTES,
    NULL,
    ORDINARY_NAMES,
    SPLITTER,
    TOO_DEEP,
    FieldParser,
    kept,
    split_body,
    text_of,
)
from ibex.adapters.openai_api.chat_injection import Message, UserMessage
from ibex.adapters.openai_api.chat_request import INCLUDE_USAGE, MESSAGES, STREAM_OPTIONS, ChatRequest
from ibex.adapters.openai_api.nesting import SMALL_BYTES, check_depth, is_deeper_than
from ibex.adapters.openai_api.raw_json import (
    MAX_ELEMENTS,
    MAX_MEMBERS,
    Member,
    TooManyError,
    WrongTypeError,
    split_array,
)
from ibex.domain.errors import FieldCode, ValidationError

if TYPE_CHECKING:
    from collections.abc import Generator

    from msgspec import Raw

MAX_MESSAGES: Final = MAX_ELEMENTS
MAX_TEMPERATURE: Final = 2
ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")

_TOKENS: Final = ("max_tokens", "max_completion_tokens")
_UNDERSTOOD: Final = frozenset({"model", MESSAGES, "stream", STREAM_OPTIONS, "temperature", *_TOKENS})
_UNDERSTOOD_IN_A_MESSAGE: Final = ("role", "content")
_UNDERSTOOD_IN_STREAM_OPTIONS: Final = frozenset({INCLUDE_USAGE})
_ORDINARY_IN_A_MESSAGE: Final = ORDINARY_NAMES.union(_UNDERSTOOD_IN_A_MESSAGE)
_ROLES_AS_WRITTEN: Final = {f'"{role}"'.encode(): role for role in ROLES}
_INTEGER = re.compile(rb"-?[0-9]{1,18}")
_NUMBER_START: Final = frozenset(b"-0123456789")
_BYTES_PER_MESSAGE: Final = 2 << 10
"""The fixed cost of parsing a message, about 4 µs, expressed as a length in bytes."""


def chat_request_steps(body: bytes) -> Generator[None, None, ChatRequest]:
    """Parse a request in steps. A body of a few KiB takes one; no step takes longer than one pass over the body."""
    # ``messages`` is checked one message at a time: most have too few brackets to be nested too deeply.
    members = yield from split_body(body, checked_later=MESSAGES)
    parser = _ChatFieldParser()
    fields = parser.understood(members, _UNDERSTOOD, "")
    model = parser.model(fields.get("model", NULL))
    messages, first_user = yield from parser.messages(fields.get(MESSAGES, NULL))
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


class _ChatFieldParser(FieldParser):
    """A parser for the fields of chat completions."""

    def messages(self, raw: bytes) -> Generator[None, None, tuple[tuple[Message, ...], UserMessage | None]]:
        if raw == NULL:
            self.refuse(MESSAGES, FieldCode.REQUIRED, "is required")
            return (), None
        try:
            elements = split_array(raw)
        except WrongTypeError:
            self.refuse(MESSAGES, FieldCode.INVALID_FORMAT, "must be an array")
            return (), None
        except TooManyError:
            self.refuse(MESSAGES, FieldCode.TOO_MANY, f"must have at most {MAX_MESSAGES} elements")
            return (), None
        if not elements:
            self.refuse(MESSAGES, FieldCode.REQUIRED, "must not be empty")
        messages = []
        first_user = None
        done_bytes = len(raw)
        for index, element in enumerate(elements):
            done_bytes += len(element) + _BYTES_PER_MESSAGE
            if done_bytes > BYTES_PER_STEP:
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
                first_user = UserMessage(index, partial(kept, members))
            messages.append(message)
        return tuple(messages), first_user

    def _message_members(self, index: int, element: bytes, *, too_deep: bool) -> list[tuple[str, Raw]] | None:
        if too_deep:  # the request and its array are two levels
            self.refuse(f"{MESSAGES}[{index}]", FieldCode.INVALID_FORMAT, TOO_DEEP)
            return None
        try:
            return SPLITTER.split(element)
        except WrongTypeError:
            self.refuse(f"{MESSAGES}[{index}]", FieldCode.INVALID_FORMAT, "must be an object")
        except TooManyError:
            self.refuse(f"{MESSAGES}[{index}]", FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members")
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
                    self.refuse(path + name, FieldCode.INVALID_FORMAT, "must not be given more than once")
        if not _ORDINARY_IN_A_MESSAGE.issuperset(names):
            for name in names:
                if name not in _ORDINARY_IN_A_MESSAGE:
                    self.refuse_folded(name, _UNDERSTOOD_IN_A_MESSAGE, path)
        raw = members[names.index("role")][1] if "role" in names else NULL
        role = _role_as_written(raw)
        if role is None:
            self._refuse_role(bytes(raw), path)
        return role or ""

    def _refuse_role(self, raw: bytes, path: str) -> None:
        if raw == NULL:
            self.refuse(path + "role", FieldCode.REQUIRED, "is required")
        elif not raw.startswith(b'"'):
            self.refuse(path + "role", FieldCode.INVALID_FORMAT, "must be a string")
        else:
            self.refuse(path + "role", FieldCode.INVALID_ENUM, f"must be one of {', '.join(ROLES)}")

    def stream_options(self, raw: bytes) -> tuple[Member, ...]:
        if raw == NULL:
            return ()
        try:
            members = kept(SPLITTER.split(raw))
        except WrongTypeError:
            self.refuse(STREAM_OPTIONS, FieldCode.INVALID_FORMAT, "must be an object")
            return ()
        except TooManyError:
            self.refuse(STREAM_OPTIONS, FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members")
            return ()
        path = f"{STREAM_OPTIONS}."
        found = self.understood(members, _UNDERSTOOD_IN_STREAM_OPTIONS, path)
        self.boolean(path + INCLUDE_USAGE, found.get(INCLUDE_USAGE, NULL))
        return members

    def temperature(self, raw: bytes) -> None:
        is_number = raw[0] in _NUMBER_START and len(raw) <= MAX_SCALAR_BYTES
        if raw != NULL and not (is_number and 0 <= float(raw) <= MAX_TEMPERATURE):
            allowed = f"must be a number from 0 to {MAX_TEMPERATURE}"
            self.refuse("temperature", FieldCode.INVALID_FORMAT, allowed)

    def tokens(self, field: str, raw: bytes) -> None:
        """Accept any integer of up to 18 digits. To servers compatible with OpenAI, 0 and -1 have a meaning."""
        if raw != NULL and not _INTEGER.fullmatch(raw):
            self.refuse(field, FieldCode.INVALID_FORMAT, "must be an integer")


def _role_as_written(raw: bytes | Raw) -> str | None:
    """Return the role, which may be written with escapes; None if it is not one of ``ROLES``."""
    if len(raw) > MAX_SCALAR_BYTES:
        return None
    written = bytes(raw)
    role = _ROLES_AS_WRITTEN.get(written)
    if role is None and b"\\" in written:
        role = text_of(written)
    return role if role in ROLES else None
