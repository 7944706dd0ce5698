"""Personal access tokens, principals and agents, and the ports that verify them."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.identity.permissions import Permission

_FORMAT = re.compile(
    r"ibex_pat_"
    r"(?P<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
    r"_(?P<secret>[A-Za-z0-9_-]{43})(?P<checksum>[0-9A-Za-z]{6})",
    re.ASCII,
)
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKSUM_DIGITS = 6
_SECRET_BYTES = 32


def _checksum(text: str) -> str:
    value = zlib.crc32(text.encode("ascii"))
    digits = []
    for _ in range(_CHECKSUM_DIGITS):
        value, digit = divmod(value, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def has_token_shape(text: str) -> bool:
    """Return whether a text has the format of a token. Does not check the checksum."""
    return _FORMAT.fullmatch(text) is not None


class PersonalAccessToken:
    """A token with a valid format and checksum. Only a ``TokenVerifier`` finds out whether it is live.

    Only ``reveal()`` returns the secret: repr and str show the display prefix.
    """

    __slots__ = ("_text", "token_id")

    def __init__(self, token_id: UUID, text: str) -> None:
        self.token_id = token_id
        self._text = text

    @classmethod
    def parse(cls, text: str) -> PersonalAccessToken | None:
        """Parse a token. Return None if its format or its checksum is wrong."""
        match = _FORMAT.fullmatch(text)
        if match is None or _checksum(text[:-_CHECKSUM_DIGITS]) != match["checksum"]:
            return None
        return cls(UUID(match["id"]), text)

    @classmethod
    def issue(cls, token_id: UUID, secret: bytes) -> PersonalAccessToken:
        """Create a token from an id and 32 random bytes. Raises ``ValueError`` for any other number of bytes."""
        if len(secret) != _SECRET_BYTES:
            raise ValueError(f"The secret of a token must have {_SECRET_BYTES} bytes, not {len(secret)}.")
        encoded = base64.urlsafe_b64encode(secret).rstrip(b"=").decode("ascii")
        body = f"ibex_pat_{token_id}_{encoded}"
        return cls(token_id, body + _checksum(body))

    @property
    def display_prefix(self) -> str:
        """The part that identifies the token and is safe to log."""
        return f"ibex_pat_{self.token_id}"

    def reveal(self) -> str:
        """Return the whole token, to hash it or to show it once after its creation."""
        return self._text

    def __repr__(self) -> str:
        return f"<PersonalAccessToken {self.display_prefix}>"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a verified token.

    ``remaining_s`` is the time from the verification to the expiry of the token, in seconds; None if it does not
    expire. ``rate_limit_rpm`` is requests per minute, 0 for unlimited, None if the organization does not set it.
    """

    org_id: UUID
    token_id: UUID
    permissions: Permission
    user_id: UUID | None = None
    agent_id: UUID | None = None
    remaining_s: float | None = None
    rate_limit_rpm: int | None = None


class AgentStatus(StrEnum):
    """The status of an agent. Only active agents are served."""

    ACTIVE = "active"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Agent:
    """An autonomous actor of an organization."""

    id: UUID
    org_id: UUID
    status: AgentStatus


class TokenVerifier(Protocol):
    """Port: verifies tokens."""

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Return the principal of a live token of an active organization, and the epoch that was read before it.

        Raises ``InvalidTokenError`` if the token is unknown, expired or revoked or its organization is not active.
        Raises ``ServiceDegradedError`` if the token cannot be verified now: its subclass
        ``TokenSourceUnavailableError`` if auth reports that it cannot look up tokens. Read-only.
        """


class AgentVerifier(Protocol):
    """Port: verifies that an agent belongs to an organization."""

    async def verify(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent]:
        """Return the agent, whatever its status, and the epoch that was read before it.

        Raises ``AgentNotAuthorizedError`` if the agent does not exist or belongs to another organization. Raises
        ``AuthUnavailableError`` if the agent cannot be verified now: its subclass ``AgentSourceUnavailableError`` if
        auth reports that it cannot look up agents. Read-only.
        """
