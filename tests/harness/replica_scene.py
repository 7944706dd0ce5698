"""One auth replica's side of the freshness protocol, step by step: an outbox, a board, and who keeps it fresh."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from harness.simulated_time import LoopClock
from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.ids import SequentialIds
from ibex.adapters.memory.outbox import InMemoryOutbox
from ibex.domain.announce import BoardUnavailableError, Connection, OutboxUnavailableError
from ibex.domain.freshness import Kind
from ibex.domain.keep_fresh import AnnounceAtOnce, KeepFresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ibex.domain.announce import Change

ORG, OTHER_ORG = UUID(int=0x0A), UUID(int=0x0B)
TOKEN, OTHER_TOKEN = UUID(int=0x2A), UUID(int=0x2B)


@dataclass(slots=True)
class Heard:
    """A ``LeaseObserver`` that remembers."""

    turns: list[str] = field(default_factory=list)

    def renewed(self) -> None:
        """Remember; see ``LeaseObserver``."""
        self.turns.append("renewed")

    def not_renewed(self, why: str) -> None:
        """Remember; see ``LeaseObserver``."""
        self.turns.append(why)


class Interrupted:
    """Calls pass through here: ``before`` may hold one up, or do something first, by its name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._hooks: dict[str, Callable[[], object]] = {}

    def before(self, name: str, hook: Callable[[], object]) -> None:
        """Call this, and wait for what it returns if that can be waited for, before the next call of that name."""
        self._hooks[name] = hook

    async def passes(self, name: str) -> None:
        """Let a call pass."""
        self.asked.append(name)
        hook = self._hooks.pop(name, None)
        waited_for = hook() if hook is not None else None
        if asyncio.iscoroutine(waited_for) or isinstance(waited_for, asyncio.Future):
            await waited_for


class ScriptedOutbox(Interrupted):
    """An ``Outbox`` over another."""

    def __init__(self, outbox: InMemoryOutbox) -> None:
        super().__init__()
        self._outbox = outbox

    async def pending(self, limit: int) -> Sequence[Change]:
        """Return changes; see ``Outbox``."""
        await self.passes("pending")
        return await self._outbox.pending(limit)

    async def forget(self, ids: Iterable[int]) -> None:
        """Remove changes; see ``Outbox``."""
        await self.passes("forget")
        await self._outbox.forget(ids)

    async def live_tokens(self) -> Sequence[UUID]:
        """Return live tokens; see ``Outbox``."""
        found = await self._outbox.live_tokens()
        await self.passes("live_tokens")
        return found


class ScriptedBoard(Interrupted):
    """A ``Board`` over another, with a connection of its own: ``cut`` has it made anew."""

    def __init__(self, board: InMemoryBoard) -> None:
        super().__init__()
        self._board = board
        self._number = 1
        self.reachable = True

    def cut(self) -> None:
        """Lose the connection."""
        self._number += 1

    async def connection(self) -> Connection:
        """Return the connection; see ``Board``."""
        await self.passes("connection")
        return Connection((await self._there()).instance, self._number)

    async def announce(self, connection: Connection, org_id: UUID, kinds: Iterable[Kind]) -> None:
        """Replace generations; see ``Board``."""
        await self.passes("announce")
        await self._board.announce(await self._there(connection), org_id, kinds)

    async def add_tokens(self, connection: Connection, token_ids: Sequence[UUID]) -> bool:
        """Put tokens into the filter; see ``Board``."""
        await self.passes("add_tokens")
        return await self._board.add_tokens(await self._there(connection), token_ids)

    async def begin_turn(self, connection: Connection) -> str | None:
        """Take a ticket; see ``Board``."""
        await self.passes("begin_turn")
        return await self._board.begin_turn(await self._there(connection))

    async def renew(self, connection: Connection, ticket: str) -> bool:
        """Renew the lease; see ``Board``."""
        await self.passes("renew")
        return await self._board.renew(await self._there(connection), ticket)

    async def begin_filter(self, connection: Connection) -> str:
        """Leave a mark; see ``Board``."""
        await self.passes("begin_filter")
        return await self._board.begin_filter(await self._there(connection))

    async def finish_filter(self, connection: Connection, mark: str, content: bytes) -> bool:
        """Make the filter; see ``Board``."""
        await self.passes("finish_filter")
        return await self._board.finish_filter(await self._there(connection), mark, content)

    async def _there(self, connection: Connection | None = None) -> Connection:
        reached = await self._board.connection()
        if not self.reachable or (connection and connection != Connection(reached.instance, self._number)):
            raise BoardUnavailableError
        return reached


class Auth:
    """One replica. Several share a ``store`` and a ``redis``; run it in simulated time."""

    def __init__(self, other: Auth | None = None) -> None:
        self.live: list[UUID] = other.live if other else []
        self.redis: InMemoryBoard = other.redis if other else InMemoryBoard(LoopClock(), SequentialIds())
        self.store: InMemoryOutbox = other.store if other else InMemoryOutbox(lambda: list(self.live))
        self.outbox = ScriptedOutbox(self.store)
        self.board = ScriptedBoard(self.redis)
        self.heard = Heard()
        self.keep_fresh = KeepFresh(self.outbox, self.board, self.heard)
        self.announce = AnnounceAtOnce(self.board, self.keep_fresh.announcement_failed)

    @classmethod
    async def vouching(cls, other: Auth | None = None) -> Auth:
        """Return one that has just renewed the lease."""
        auth = cls(other)
        while await auth.turn() != "renewed":
            pass
        return auth

    async def turn(self) -> str:
        """Take a turn and return what was heard of it."""
        await self.keep_fresh.turn()
        return self.heard.turns[-1]

    def commit(self, kind: Kind = Kind.TOKENS) -> None:
        """Change something, without announcing it."""
        self.store.note(ORG, kind)

    def create(self, token_id: UUID = TOKEN) -> None:
        """Create a token, without announcing it."""
        self.live.append(token_id)
        self.store.note(ORG, Kind.TOKENS, token_id)

    @property
    def lease(self) -> str | None:
        """The lease, as a worker would read it now."""
        return self.redis.news(ORG).lease

    def generation(self, org_id: UUID = ORG, kind: Kind = Kind.TOKENS) -> str:
        """Return a generation, as a worker would read it now."""
        return self.redis.news(org_id).generations[kind]

    async def pending(self) -> int:
        """Return how many changes are in the outbox, whether or not this replica can reach it."""
        reachable, self.store.reachable = self.store.reachable, True
        try:
            return len(await self.store.pending(1_000))
        finally:
            self.store.reachable = reachable


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


def hang() -> asyncio.Task[None]:
    """Return what never ends, to wait for."""
    return asyncio.ensure_future(_forever())


def fail_outbox() -> None:
    """Fail as an outbox does that cannot be reached."""
    raise OutboxUnavailableError


def fail_board() -> None:
    """Fail as a board does that cannot be reached."""
    raise BoardUnavailableError
