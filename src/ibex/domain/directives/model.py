"""An agent's versioned instruction, and how it gets among the messages of a request."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.proxying.chat import Member, Message, encode_object

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.proxying.chat import ChatRequest, UserMessage

MAX_TEXT_BYTES: Final = 32_768
_RECEIPT_HEX_DIGITS = 8
_INSTRUCTING_ROLES = frozenset({"system", "developer"})


class InjectionMode(StrEnum):
    """Where the directive goes."""

    SYSTEM_FIRST = "system_first"
    SYSTEM_APPEND = "system_append"
    USER_PREPEND = "user_prepend"


@dataclass(frozen=True, slots=True)
class Directive:
    """The version of an agent's directive that is in force. Its repr shows the receipt, never the text."""

    version_id: UUID
    version: int
    mode: InjectionMode
    text: str = field(repr=False)
    sha256: str

    @property
    def receipt(self) -> str:
        """``<version>@<first 8 hex digits of the text's SHA-256>``: what a client is told."""
        return f"{self.version}@{self.sha256[:_RECEIPT_HEX_DIGITS]}"


def text_hash(text: str) -> str:
    """Return the SHA-256, in hex, of a directive's text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_text(text: str) -> str:
    """Return the text if it may be a directive: 1 to 32,768 bytes of UTF-8 without NUL; else raise ``ValueError``."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # it would hold the text
        raise ValueError("a directive cannot hold lone surrogates, which UTF-8 has no bytes for") from None
    if not 1 <= size <= MAX_TEXT_BYTES:
        raise ValueError(f"a directive has 1 to {MAX_TEXT_BYTES:,} bytes, this one has {size:,}")
    if "\x00" in text:
        raise ValueError("a directive cannot hold NUL characters")
    return text


class DirectiveLookup(Protocol):
    """Port: what is in force for an agent."""

    async def active(self, org_id: UUID, agent_id: UUID) -> Directive | None:
        """Return the directive in force, or None if the agent has none or it is not active.

        Raises ``ServiceDegradedError`` if that cannot be found out now: a directive is never silently skipped.
        """


def inject(request: ChatRequest, directive: Directive | None) -> ChatRequest:
    """Return the request with the directive among its messages; without a directive, the request itself.

    No message of the client's is dropped, merged, reordered or re-encoded. ``user_prepend`` without a user message, or
    with one whose content is neither text nor a list of parts, acts as ``system_first``.
    """
    if directive is None:
        return request
    if directive.mode is InjectionMode.USER_PREPEND:
        prepended = _prepended(request.first_user, directive)
        if prepended is not None:
            index, message = prepended
            return request.with_messages((*request.messages[:index], message, *request.messages[index + 1 :]))
    position = _after_instructions(request) if directive.mode is InjectionMode.SYSTEM_APPEND else 0
    return request.with_messages(
        (*request.messages[:position], _system_message(directive), *request.messages[position:])
    )


def _after_instructions(request: ChatRequest) -> int:
    last = max((i for i, m in enumerate(request.messages) if m.role in _INSTRUCTING_ROLES), default=-1)
    return last + 1


def _system_message(directive: Directive) -> Message:
    return Message("system", b'{"role":"system","content":' + _encoded(directive.text) + b"}")


def _prepended(user: UserMessage | None, directive: Directive) -> tuple[int, Message] | None:
    if user is None:
        return None
    own = user.take_apart()
    members = tuple(Member(m.name, _with_prefix(m.raw, directive)) if m.name == "content" else m for m in own)
    if members == own:
        return None
    return user.index, Message("user", encode_object(members))


def _with_prefix(content: bytes, directive: Directive) -> bytes:
    prefix = _encoded(f"[DIRECTIVE]: {directive.text}\n\n")
    match content[:1]:
        case b'"':
            return prefix[:-1] + content[1:]
        case b"[":
            rest = content[1:].lstrip()
            separator = b"" if rest.startswith(b"]") else b","
            return b'[{"type":"text","text":' + prefix + b"}" + separator + rest
        case _:
            return content


@lru_cache(maxsize=256)  # of at most 32 KiB each; to encode one takes as long as all else that is done here
def _encoded(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()
