"""Where changes are announced: the ports behind the freshness protocol (spec 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from ibex.domain.freshness import Kind


class BoardUnavailableError(Exception):
    """The board cannot be reached, or its connection was made anew while it was used."""


class OutboxUnavailableError(Exception):
    """The outbox cannot be reached."""


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change of an organization. ``new_token`` is the token's id where the change is its creation."""

    id: int
    org_id: UUID
    kind: Kind
    new_token: UUID | None = None


class Outbox(Protocol):
    """Port: the changes that were committed and are not announced yet, oldest first."""

    async def pending(self, limit: int) -> Sequence[Change]:
        """Return up to ``limit`` changes, those included that another replica is announcing at this moment.

        Raises ``OutboxUnavailableError``.
        """

    async def forget(self, ids: Iterable[int]) -> None:
        """Remove changes that are announced; those that are gone already are no error. Raises as ``pending`` does."""

    async def live_tokens(self) -> Sequence[UUID]:
        """Return the ids of all tokens that are not revoked, for the filter. Raises as ``pending`` does."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection to the board: the instance's id, and a number that no other connection of this process has."""

    instance: str
    number: int


class Board(Protocol):
    """Port: where generations, lease and filter are kept for all to read.

    Each method but the first raises ``BoardUnavailableError`` if the board cannot be reached, answers too late, or is
    no longer reached through the connection that is given: what was announced through another may be lost.
    """

    async def connection(self) -> Connection:
        """Return the connection, made anew if there was none. Raises ``BoardUnavailableError``."""

    async def announce(self, connection: Connection, org_id: UUID, kinds: Iterable[Kind]) -> None:
        """Replace the organization's generations of these kinds by values that were never there."""

    async def add_tokens(self, connection: Connection, token_ids: Sequence[UUID]) -> bool:
        """Put tokens into the instance's filter; False, and nothing done, if it has none."""

    async def renew(self, connection: Connection) -> bool:
        """Let the lease, which names the connection's instance, live for ``LEASE_S`` from now.

        False, and nothing done, if the instance has no filter: who renews vouches for it as well.
        """

    async def begin_filter(self, connection: Connection) -> str:
        """Leave a mark that is gone if the instance loses what it holds; to be called before tokens are listed."""

    async def finish_filter(self, connection: Connection, mark: str, content: bytes) -> bool:
        """Make ``content`` the instance's filter; False, and nothing done, if it has one or the mark is gone."""


class Announcements(Protocol):
    """Port: who changes something says so, right after it was committed. Never raises."""

    async def changed(self, org_id: UUID, kind: Kind) -> None:
        """Something of this kind was changed: what is remembered of it must be looked up anew."""

    async def token_created(self, token_id: UUID) -> None:
        """A token was created; return when no filter that lacks it can be vouched for any more."""
