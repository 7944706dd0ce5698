"""The part of request parsing that all operations share: JSON with limits, and fields (ADR 0043)."""

from __future__ import annotations

import asyncio
import codecs
import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from ibex.adapters.openai_api.nesting import TooDeepError, TooMuchStructureError, check_depth, check_structure
from ibex.adapters.openai_api.raw_json import (
    MAX_MEMBERS,
    Member,
    NotJsonError,
    ObjectSplitter,
    TooManyError,
    describe_json_error,
)
from ibex.domain.errors import MAX_FIELD_ERRORS, FieldCode, FieldError, InvalidJsonError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable

    from msgspec import Raw

MAX_MODEL_CHARACTERS: Final = 256
MAX_DEPTH: Final = 64
MAX_STRUCTURE: Final = 500_000
"""The maximum number of brackets and commas outside strings. OpenAI's largest input, 300,000 numbers, is within it."""
NULL: Final = b"null"
MAX_SCALAR_BYTES: Final = 64
BYTES_PER_STEP: Final = 64 << 10
SPLITTER: Final = ObjectSplitter()
TOO_DEEP: Final = f"must not be nested deeper than {MAX_DEPTH} levels"

_LONGEST_PARSED_NAME: Final = 32
# Names in OpenAI's API that do not case-fold to a parsed name. A lookup takes a quarter of the time of case folding.
ORDINARY_NAMES: Final = frozenset(
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
_BOOLEANS: Final = {b"true": True, b"false": False, b"null": False}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BYTES_PER_CHARACTER: Final = 12
"""A character outside the Basic Multilingual Plane can be written as two escapes of six bytes each."""
_TOO_MUCH: Final = f"must have at most {MAX_STRUCTURE:,} brackets and commas outside strings"
_FOLDED: Final = "must be spelled exactly like this: the request has a member whose name differs from it only in case"
_LARGE_BYTES: Final = 2 << 20
"""Parsing this size takes a few milliseconds for any content. Larger bodies are checked first."""
_UTF8_BYTES: Final = 1 << 20

T = TypeVar("T")


async def run_in_steps(parsing: Generator[None, None, T]) -> T:
    """Return the result of a parser that works in steps. Yields to the event loop between steps."""
    while True:
        try:
            next(parsing)
        except StopIteration as done:
            result: T = done.value
            return result
        await asyncio.sleep(0)


def split_body(body: bytes, *, checked_later: str | None = None) -> Generator[None, None, tuple[Member, ...]]:
    """Return the members of a request, in steps.

    The nesting of the member ``checked_later`` is not checked. Raises ``InvalidJsonError`` and ``ValidationError``.
    """
    try:
        if len(body) > _LARGE_BYTES:
            yield from _check_large_body(body)
        elif not body.isascii():
            body.decode()
    except UnicodeDecodeError:
        raise InvalidJsonError(detail="The request body is not valid UTF-8.") from None
    members = _split(body)
    if len(body) > BYTES_PER_STEP:
        yield
    for member in members:
        if len(member.raw) >= MAX_DEPTH and member.name != checked_later:
            too_deep = yield from check_depth(MAX_DEPTH - 1, member.raw)
            if too_deep:
                raise _too_deep()
    return members


def _split(body: bytes) -> tuple[Member, ...]:
    try:
        return kept(SPLITTER.split(body))
    except RecursionError:
        raise _too_deep() from None
    except TooManyError:
        raise wrong("body", FieldCode.TOO_MANY, f"must have at most {MAX_MEMBERS} members") from None
    except NotJsonError as error:
        raise InvalidJsonError(detail=describe_json_error(body, error)) from None


def _check_large_body(body: bytes) -> Generator[None, None, None]:
    """Check that parsing a body takes a bounded time. Raises ``UnicodeDecodeError`` and ``ValidationError``."""
    try:
        yield from check_structure(body, most=MAX_STRUCTURE, depth=MAX_DEPTH)
    except TooDeepError:
        raise _too_deep() from None
    except TooMuchStructureError:
        raise wrong("body", FieldCode.TOO_MANY, _TOO_MUCH) from None
    if not body.isascii():
        view, begin = memoryview(body), 0
        while begin < len(body):
            end = begin + _UTF8_BYTES
            begin += codecs.utf_8_decode(view[begin:end], "strict", end >= len(body))[1]
            yield


def kept(members: Iterable[tuple[str, Raw]]) -> tuple[Member, ...]:
    """Return members with copies of their text, which do not keep the whole body in memory."""
    return tuple([Member(name, bytes(raw)) for name, raw in members])


def wrong(field: str, code: FieldCode, message: str) -> ValidationError:
    """Return the error for one invalid field."""
    return ValidationError((FieldError(field, code, message),))


def _too_deep() -> ValidationError:
    return wrong("body", FieldCode.INVALID_FORMAT, TOO_DEEP)


class FieldParser:
    """A parser for fields that collects all errors. For an invalid field, it returns a placeholder of the right type.

    Raises ``ValidationError`` as soon as there are ``MAX_FIELD_ERRORS`` errors.
    """

    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def refuse(self, field: str, code: FieldCode, message: str) -> None:
        """Add an error."""
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
                if name not in ORDINARY_NAMES:
                    self.refuse_folded(name, names, path)
                continue
            if name in found:
                self.refuse(path + name, FieldCode.INVALID_FORMAT, "must not be given more than once")
            found[name] = member.raw
        return found

    def refuse_folded(self, name: str, names: Collection[str], path: str) -> None:
        """Add an error if a name that is not in ``names`` case-folds to one of them."""
        if len(name) <= _LONGEST_PARSED_NAME and (folded := name.casefold()) in names:  # folding never shortens a name
            self.refuse(path + folded, FieldCode.INVALID_FORMAT, _FOLDED)

    def model(self, raw: bytes) -> str:
        """Return the model's name."""
        if raw == NULL:
            self.refuse("model", FieldCode.REQUIRED, "is required")
            return ""
        if len(raw) > _BYTES_PER_CHARACTER * (MAX_MODEL_CHARACTERS + 1) and raw.startswith(b'"'):
            self.refuse("model", FieldCode.TOO_LONG, f"must have at most {MAX_MODEL_CHARACTERS} characters")
            return ""
        model = text_of(raw)
        if model is None or _CONTROL.search(model):
            self.refuse("model", FieldCode.INVALID_FORMAT, "must be a string without control characters")
            return ""
        if not model:
            self.refuse("model", FieldCode.REQUIRED, "must not be empty")
        if len(model) > MAX_MODEL_CHARACTERS:
            self.refuse("model", FieldCode.TOO_LONG, f"must have at most {MAX_MODEL_CHARACTERS} characters")
        return model

    def boolean(self, field: str, raw: bytes) -> bool:
        """Return a boolean; null counts as false."""
        value = _BOOLEANS.get(raw) if len(raw) <= MAX_SCALAR_BYTES else None  # hashing reads the whole value
        if value is None:
            self.refuse(field, FieldCode.INVALID_FORMAT, "must be a boolean")
        return value or False


def text_of(raw: bytes) -> str | None:
    """Return the text that a JSON string encodes; None for any other value."""
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else None
