"""The directive of an agent, and the port that looks it up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from uuid import UUID

MAX_TEXT_BYTES: Final = 32_768
_RECEIPT_HEX_DIGITS = 8


class InjectionMode(StrEnum):
    """The place where a directive is injected into the messages of a request."""

    SYSTEM_FIRST = "system_first"
    SYSTEM_APPEND = "system_append"
    USER_PREPEND = "user_prepend"


@dataclass(frozen=True, slots=True)
class Directive:
    """The version of an agent's directive that is in force. The repr shows no text."""

    version_id: UUID
    version: int
    mode: InjectionMode
    text: str = field(repr=False)
    sha256: str

    @property
    def receipt(self) -> str:
        """The version for the client: ``<version>@<first 8 hex digits of the text's SHA-256>``."""
        return f"{self.version}@{self.sha256[:_RECEIPT_HEX_DIGITS]}"


def text_hash(text: str) -> str:
    """Return the SHA-256 of a directive's text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_text(text: str) -> str:
    """Return the text if it is 1 to 32,768 bytes of UTF-8 without NUL; otherwise raise ``ValueError``."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # not chained, because it contains the text
        raise ValueError("A directive must be valid Unicode. This one contains lone surrogates.") from None
    if not 1 <= size <= MAX_TEXT_BYTES:
        raise ValueError(f"A directive must have 1 to {MAX_TEXT_BYTES:,} bytes in UTF-8. This one has {size:,}.")
    if "\x00" in text:
        raise ValueError("A directive must not contain NUL characters.")
    return text


class DirectiveVersions(Protocol):
    """Port: reads the versions of directives, those in force and earlier ones."""

    async def version(self, org_id: UUID, version_id: UUID) -> Directive | None:
        """Return a version, or None if the organization has none with this id.

        Raises ``ServiceDegradedError`` if the source is unavailable.
        """


class DirectiveLookup(Protocol):
    """Port: looks up the directive that is in force for an agent."""

    async def active(self, org_id: UUID, agent_id: UUID) -> Directive | None:
        """Return the directive in force, or None if the agent has none or it is not active.

        Raises ``ServiceDegradedError`` if the source is unavailable: a directive is never silently skipped.
        """
