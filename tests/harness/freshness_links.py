"""Links between simulated processes that can be cut in the ways in which real ones are, and clients on them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

from ibex.domain.announce import BoardUnavailableError, Connection, OutboxUnavailableError
from ibex.domain.errors import AuthUnavailableError, OutcomeUnknownError, ServiceDegradedError
from ibex.domain.freshness import News, no_news
from ibex.domain.rate_limits import Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime
    from random import Random
    from uuid import UUID

    from ibex.adapters.memory.board import InMemoryBoard
    from ibex.adapters.memory.identity import InMemoryIdentity
    from ibex.domain.announce import Change
    from ibex.domain.clock import Clock
    from ibex.domain.freshness import Kind
    from ibex.domain.identity import Agent, AgentStatus, PersonalAccessToken, Principal
    from ibex.domain.manage_identity import Organization, OrganizationStatus, StoredToken

T = TypeVar("T")

LATE_BY_S = 2.0
"""A segment that was lost is sent again so long after the link is whole, though its sender has given up since."""


COMMIT_TIMEOUT_S = 2.0
OUTBOX_TIMEOUT_S = 2.0


class UnreachableError(Exception):
    """No answer came. What was asked for may have been done all the same, or may yet be."""


async def _nothing() -> None:
    pass


class Mode(Enum):
    """How a link is: whole, refusing at once, swallowing all, or keeping what it was given until it is whole."""

    WHOLE = auto()
    REFUSING = auto()
    SILENT = auto()
    LATE = auto()


@dataclass(slots=True)
class Link:
    """One process's way to another; ``timeout_s`` is how long it waits for an answer."""

    random: Random
    timeout_s: float
    slowest_s: float = 0.003
    mode: Mode = Mode.WHOLE
    resets: int = 0
    _kept: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    _late: set[asyncio.Task[None]] = field(default_factory=set)

    async def call(self, there: Callable[[], Awaitable[T]]) -> T:
        """Have something done at the other end. Raises ``UnreachableError``, and what is raised there."""
        try:
            async with asyncio.timeout(self.timeout_s):
                resets = self.resets
                await self._travel(resets, there)
                answer = await there()
                await self._travel(resets)
                return answer
        except TimeoutError:
            raise UnreachableError from None

    def cut(self, mode: Mode) -> None:
        """Cut it, or make it whole again; what it kept is delivered then, somewhat later."""
        self.mode = mode
        if mode is Mode.WHOLE:
            for there in self._kept:
                task = asyncio.get_running_loop().create_task(self._deliver(there))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
            self._kept.clear()

    def reset(self) -> None:
        """Break what is under way: the other end is another from now on."""
        self.resets += 1
        self._kept.clear()

    async def _travel(self, resets: int, cargo: Callable[[], Awaitable[object]] | None = None) -> None:
        if self.mode is not Mode.REFUSING:
            await asyncio.sleep(self.random.uniform(0.0001, self.slowest_s))
        if resets != self.resets or self.mode is Mode.REFUSING:
            raise UnreachableError
        if self.mode is not Mode.WHOLE:
            if cargo is not None and self.mode is Mode.LATE:
                self._kept.append(cargo)
            await asyncio.get_running_loop().create_future()

    async def _deliver(self, there: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(self.random.uniform(0, LATE_BY_S))
        with suppress(Exception):  # nobody waits for it any more
            await there()


class BoardOverLink:
    """An auth replica's ``Board``: whatever goes wrong ends its connection, and the next is another."""

    def __init__(self, link: Link, board: InMemoryBoard) -> None:
        self._link = link
        self._board = board
        self._open: Connection | None = None
        self._resets = 0
        self._number = 0

    async def connection(self) -> Connection:
        """Return the connection; see ``Board``."""
        if self._open is None or self._resets != self._link.resets:
            self._resets = self._link.resets
            there = await self._ask(self._board.connection)
            self._number += 1
            self._open = Connection(there.instance, self._number)
        return self._open

    async def announce(self, connection: Connection, org_id: UUID, kinds: Iterable[Kind]) -> None:
        """Replace generations; see ``Board``."""
        kinds = list(kinds)
        await self._run(connection, lambda there: self._board.announce(there, org_id, kinds))

    async def add_tokens(self, connection: Connection, token_ids: Sequence[UUID]) -> bool:
        """Put tokens into the filter; see ``Board``."""
        return await self._run(connection, lambda there: self._board.add_tokens(there, token_ids))

    async def begin_turn(self, connection: Connection) -> str | None:
        """Take a ticket; see ``Board``."""
        return await self._run(connection, self._board.begin_turn)

    async def renew(self, connection: Connection, ticket: str) -> bool:
        """Renew the lease; see ``Board``."""
        return await self._run(connection, lambda there: self._board.renew(there, ticket))

    async def begin_filter(self, connection: Connection) -> str:
        """Leave a mark; see ``Board``."""
        return await self._run(connection, self._board.begin_filter)

    async def finish_filter(self, connection: Connection, mark: str, content: bytes) -> bool:
        """Make the filter; see ``Board``."""
        return await self._run(connection, lambda there: self._board.finish_filter(there, mark, content))

    async def _run(self, connection: Connection, what: Callable[[Connection], Awaitable[T]]) -> T:
        if connection != self._open or self._resets != self._link.resets:
            raise BoardUnavailableError

        async def there() -> T:
            reached = await self._board.connection()
            if reached.instance != connection.instance:
                raise UnreachableError
            return await what(reached)

        return await self._ask(there)

    async def _ask(self, there: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._link.call(there)
        except UnreachableError:
            self._open = None
            raise BoardUnavailableError from None


class StoreOverLink:
    """What an auth replica asks its PostgreSQL: of an ``IdentityStore`` what this world needs, and the ``Outbox``."""

    def __init__(self, link: Link, store: InMemoryIdentity) -> None:
        self._link = link
        self._store = store

    async def find_token(self, token_id: UUID) -> tuple[StoredToken, Organization] | None:
        """Return the token with its organization."""
        return await self._ask(lambda: self._store.find_token(token_id))

    async def find_agent(self, org_id: UUID, agent_id: UUID) -> Agent | None:
        """Return the agent."""
        return await self._ask(lambda: self._store.find_agent(org_id, agent_id))

    async def add_token(self, token: StoredToken) -> None:
        """Store a token."""
        await self._change(lambda: self._store.add_token(token))

    async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
        """Revoke a token."""
        return await self._change(lambda: self._store.revoke_token(org_id, token_id, now))

    async def set_organization_status(self, org_id: UUID, status: OrganizationStatus) -> bool:
        """Change an organization's status."""
        return await self._change(lambda: self._store.set_organization_status(org_id, status))

    async def set_agent_status(self, org_id: UUID, agent_id: UUID, status: AgentStatus) -> bool:
        """Change an agent's status."""
        return await self._change(lambda: self._store.set_agent_status(org_id, agent_id, status))

    async def pending(self, limit: int) -> Sequence[Change]:
        """Return changes; see ``Outbox``."""
        return await self._drain(lambda: self._store.outbox.pending(limit))

    async def forget(self, ids: Iterable[int]) -> None:
        """Remove changes; see ``Outbox``."""
        ids = list(ids)
        await self._drain(lambda: self._store.outbox.forget(ids))

    async def live_tokens(self) -> Sequence[UUID]:
        """Return live tokens; see ``Outbox``."""
        return await self._drain(self._store.outbox.live_tokens)

    async def _ask(self, there: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._link.call(there)
        except UnreachableError:
            raise ServiceDegradedError from None

    async def _change(self, there: Callable[[], Awaitable[T]]) -> T:
        """Begin, which changes nothing if it fails, and commit."""
        await self._ask(_nothing)
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                return await self._link.call(there)
        except (UnreachableError, TimeoutError):
            raise OutcomeUnknownError from None

    async def _drain(self, there: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(OUTBOX_TIMEOUT_S):
                return await self._link.call(there)
        except (UnreachableError, TimeoutError):
            raise OutboxUnavailableError from None


class NewsOverLink:
    """A worker's ``RateLimiter``, which limits nobody, and its ``KnownTokens``."""

    def __init__(self, link: Link, board: InMemoryBoard, clock: Clock) -> None:
        self._link = link
        self._board = board
        self._clock = clock

    async def count(self, org_id: UUID, now: datetime) -> Tally:  # noqa: ARG002 - a RateLimiter's
        """Return the news."""
        return Tally(1, await self.news(org_id))

    async def news(self, org_id: UUID) -> News:
        """Return the news, or none."""
        asked_ns = self._clock.monotonic_ns()

        async def there() -> News:
            return self._board.news(org_id)

        try:
            return replace(await self._link.call(there), asked_ns=asked_ns)
        except UnreachableError:
            return no_news(asked_ns)

    async def excludes(self, token_id: UUID) -> bool:
        """Tell whether the token is certainly not live; see ``KnownTokens``."""
        try:
            return await self._link.call(lambda: self._board.excludes(token_id))
        except UnreachableError:
            return False


class TokensOverLink:
    """A worker's ``TokenVerifier``, at whichever replica ``at`` finds for it."""

    def __init__(self, link: Link, at: Callable[[PersonalAccessToken], Awaitable[Principal]]) -> None:
        self._link = link
        self._at = at

    async def verify(self, token: PersonalAccessToken) -> Principal:
        """Return the token's principal; see ``TokenVerifier``."""
        try:
            return await self._link.call(lambda: self._at(token))
        except UnreachableError:
            raise ServiceDegradedError from None


class AgentsOverLink:
    """A worker's ``AgentVerifier``, at whichever replica ``at`` finds for it."""

    def __init__(self, link: Link, at: Callable[[UUID, UUID], Awaitable[Agent]]) -> None:
        self._link = link
        self._at = at

    async def verify(self, org_id: UUID, agent_id: UUID) -> Agent:
        """Return the agent; see ``AgentVerifier``."""
        try:
            return await self._link.call(lambda: self._at(org_id, agent_id))
        except UnreachableError:
            raise AuthUnavailableError from None
