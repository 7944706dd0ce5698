"""USE CASE of auth: announce every committed change, and vouch for it with the lease (spec 5, ADR 0021).

The lease says: whatever was committed ``LEASE_S`` before its end has been announced, and is in the filter of tokens. So
a turn takes a ticket first, announces then, and renews by that ticket, all through one and the same connection to the
board. The lease counts from the ticket and holds for the filter that was there then: a renewal that comes late vouches
for nothing that its turn has not looked at. While the outbox cannot be reached a replica goes on renewing, since what
is committed then is announced by who commits it; but only if it has emptied the outbox since it started, since its
connection was made anew, and since an announcement of its own failed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.announce import BoardUnavailableError, OutboxUnavailableError
from ibex.domain.freshness import DRAIN_INTERVAL_S, LEASE_S
from ibex.domain.known_tokens import filter_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from ibex.domain.announce import Board, Change, Connection, Outbox
    from ibex.domain.freshness import Kind

BATCH: Final = 1_000
DRAIN_TIMEOUT_S: Final = 0.5
"""An outbox that takes longer counts as one that cannot be reached: the lease must not wait for it."""
SETTLED_S: Final = LEASE_S + DRAIN_INTERVAL_S
"""After so long no lease is valid that was renewed by who may not have known of a change."""


class Drained(Enum):
    """What came of emptying the outbox."""

    ALL = auto()
    NO_FILTER = auto()
    OUT_OF_REACH = auto()


class LeaseObserver(Protocol):
    """Port: hears of the lease. Never raises, never blocks."""

    def renewed(self) -> None:
        """The lease was renewed by this replica."""

    def not_renewed(self, why: str) -> None:
        """It was not; ``why`` is one of a few fixed words."""


class KeepFresh:
    """Announces and renews, twice a second. One per auth replica; several at a time do no harm."""

    def __init__(
        self,
        outbox: Outbox,
        board: Board,
        observer: LeaseObserver,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take ``sleep``, which waits for seconds."""
        self._outbox = outbox
        self._board = board
        self._observer = observer
        self._sleep = sleep
        self._vouches_through: Connection | None = None
        self._failures = 0
        self._late: asyncio.Task[Drained] | None = None

    async def run(self) -> None:
        """Take turns until cancelled."""
        try:
            while True:
                if not await self.turn():
                    await self._sleep(DRAIN_INTERVAL_S)
        finally:
            if self._late is not None:
                self._late.cancel()

    async def turn(self) -> bool:
        """Announce what is there and renew the lease if that may be done; True if another turn should come at once.

        Raises nothing but bugs: what cannot be reached is tried again at the next turn.
        """
        try:
            return await self._turn(await self._board.connection())
        except BoardUnavailableError:
            self._vouches_through = None
            self._observer.not_renewed("board")
            return False

    def announcement_failed(self) -> None:
        """Vouch for nothing until the outbox was emptied: it holds a change that could not be announced."""
        self._vouches_through = None
        self._failures += 1

    async def _turn(self, connection: Connection) -> bool:
        failures = self._failures
        ticket = await self._board.begin_turn(connection)
        drained = await self._drain_in_time(connection)
        if drained is Drained.ALL:
            self._vouches_through = connection if failures == self._failures else None
        if ticket is None or drained is Drained.NO_FILTER:
            return await self._make_filter(connection)
        if self._vouches_through != connection:
            self._observer.not_renewed("outbox")
            return False
        if await self._board.renew(connection, ticket):
            self._observer.renewed()
            return False
        self._observer.not_renewed("late")
        return True

    async def _drain_in_time(self, connection: Connection) -> Drained:
        """Empty the outbox, but do not wait for one that hangs, nor ask it again while it does.

        What comes of a drain after its time is not used: it may have looked before what is to be vouched for.
        """
        if self._late is not None:
            if not self._late.done():
                return Drained.OUT_OF_REACH
            self._late = None
        draining = self._late = asyncio.create_task(self._drain(connection))
        draining.add_done_callback(_retrieve)
        await asyncio.wait([draining], timeout=DRAIN_TIMEOUT_S)
        if not draining.done():
            return Drained.OUT_OF_REACH
        self._late = None
        return draining.result()

    async def _drain(self, connection: Connection) -> Drained:
        try:
            while changes := await self._outbox.pending(BATCH):
                for org_id, kinds in _by_organization(changes).items():
                    await self._board.announce(connection, org_id, kinds)
                created = [change.new_token for change in changes if change.new_token is not None]
                if created and not await self._board.add_tokens(connection, created):
                    return Drained.NO_FILTER  # they stay in the outbox: who makes a filter now may not know them
                await self._outbox.forget([change.id for change in changes])
        except OutboxUnavailableError:
            return Drained.OUT_OF_REACH
        return Drained.ALL

    async def _make_filter(self, connection: Connection) -> bool:
        """Make the filter, unless somebody else has or the instance forgets it meanwhile; True if it was asked for."""
        self._observer.not_renewed("filter")
        mark = await self._board.begin_filter(connection)
        try:
            live = await self._outbox.live_tokens()
        except OutboxUnavailableError:
            return False
        content = await asyncio.to_thread(filter_of, live)
        return await self._board.finish_filter(connection, mark, content)


def _retrieve(drained: asyncio.Task[Drained]) -> None:
    if not drained.cancelled():
        drained.exception()


def _by_organization(changes: Sequence[Change]) -> dict[UUID, set[Kind]]:
    kinds: defaultdict[UUID, set[Kind]] = defaultdict(set)
    for change in changes:
        kinds[change.org_id].add(change.kind)
    return kinds


class AnnounceAtOnce:
    """``Announcements`` on the board. What fails here is in the outbox, and is announced from there."""

    def __init__(
        self,
        board: Board,
        on_failure: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take what is called when an announcement failed: this process must not vouch for it then."""
        self._board = board
        self._on_failure = on_failure
        self._sleep = sleep

    async def changed(self, org_id: UUID, kind: Kind) -> None:
        """Replace the generation; see ``Announcements``."""
        try:
            await self._board.announce(await self._board.connection(), org_id, [kind])
        except BoardUnavailableError:
            self._on_failure()

    async def token_created(self, token_id: UUID) -> None:
        """Put the token into the filter; see ``Announcements``. Waits up to ``SETTLED_S`` if that fails."""
        try:
            await self._board.add_tokens(await self._board.connection(), [token_id])
        except BoardUnavailableError:
            self._on_failure()
            await self._sleep(SETTLED_S)


class LeaveItToTheOutbox:
    """``Announcements`` of a process that has no board: auth announces within one drain."""

    async def changed(self, org_id: UUID, kind: Kind) -> None:
        """Do nothing; see ``Announcements``."""

    async def token_created(self, token_id: UUID) -> None:
        """Do nothing: without a board there is no filter; see ``Announcements``."""
