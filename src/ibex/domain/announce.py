"""Where changes are announced: the ports behind the freshness protocol (spec 5)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ibex.domain.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from uuid import UUID

    from ibex.domain.freshness import Kind

T = TypeVar("T")


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
    """Port: the changes that were committed and are not announced yet, oldest first.

    ``pending`` and ``forget`` answer or raise within two seconds: while one hangs, nothing is announced from here.
    """

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

    async def begin_turn(self, connection: Connection) -> str | None:
        """Return a ticket to renew the lease with, good for ``LEASE_S``; to be taken before the outbox is emptied.

        None if the instance has no filter: who renews vouches for it as well.
        """

    async def renew(self, connection: Connection, ticket: str) -> bool:
        """Let the lease, which names instance and filter, live until ``LEASE_S`` after the ticket was given out.

        However late this comes to be done, it vouches for no more than its turn saw. False, and nothing done, if the
        ticket has run out, or the instance's filter is not the one that it had then.
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


class AnnouncedChanges:
    """Makes changes so that none of them goes unannounced, whoever still waits for it and whatever becomes known."""

    def __init__(self, announcements: Announcements) -> None:
        self._announcements = announcements
        self._being_made: set[asyncio.Task[Any]] = set()

    async def make(self, org_id: UUID, kind: Kind, change: Coroutine[Any, Any, T]) -> T:
        """Make a change and announce it, unless what comes of it is false: then nothing was changed.

        Who is cancelled does not take the change along. Raises what the change raises; one whose outcome stays unknown
        is announced too, since nobody but who made it might do so while the outbox cannot be reached.
        """
        making = asyncio.get_running_loop().create_task(self._make(org_id, kind, change))
        self._being_made.add(making)
        making.add_done_callback(self._made)
        return await asyncio.shield(making)

    async def _make(self, org_id: UUID, kind: Kind, change: Coroutine[Any, Any, T]) -> T:
        try:
            made = await change
        except OutcomeUnknownError:
            await self._announcements.changed(org_id, kind)
            raise
        if made:
            await self._announcements.changed(org_id, kind)
        return made

    def _made(self, making: asyncio.Task[Any]) -> None:
        self._being_made.discard(making)
        if not making.cancelled():
            making.exception()  # whoever asked for it may have gone
