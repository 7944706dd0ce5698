"""Links between simulated processes, with the faults of real links, and clients that use them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

from ibex.domain.errors import AuthUnavailableError, OutcomeUnknownError, ServiceDegradedError
from ibex.domain.freshness.change_log import ChangeLogUnavailableError
from ibex.domain.freshness.kinds import Epoch, unknown_epoch
from ibex.domain.freshness.token_filter import TokensUnavailableError
from ibex.domain.freshness.watch import StreamLostError
from ibex.domain.identity.rate_limits import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime
    from random import Random
    from uuid import UUID

    from harness.memory.epochs import InMemoryEpochs
    from harness.memory.identity import InMemoryIdentity
    from ibex.domain.clock import Clock
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.freshness.change_log import ChangesRead, WatchMessage, WatchServer
    from ibex.domain.freshness.token_filter import TokensPage
    from ibex.domain.identity.management import NamedAgent, Organization, OrganizationStatus, StoredToken
    from ibex.domain.identity.model import Agent, AgentStatus, PersonalAccessToken, Principal

T = TypeVar("T")

USUAL_DELAY_S = 0.003
LATE_BY_S = 2.0
"""A segment that was lost is sent again so long after the link is whole, though its sender has given up since."""
COMMIT_TIMEOUT_S = 2.0
LOG_TIMEOUT_S = 2.0
EPOCH_TIMEOUT_S = 0.01


class UnreachableError(Exception):
    """No answer arrived. The call may have taken effect, or may still do so."""


async def _nothing() -> None:
    pass


class Mode(Enum):
    """The state of a link: working, refusing, holding both directions, or holding one direction."""

    WHOLE = auto()
    REFUSING = auto()
    STALLED = auto()
    STALLED_THERE = auto()
    STALLED_BACK = auto()

    def holds(self, *, back: bool) -> bool:
        """Return whether the link holds messages in a direction."""
        return self is Mode.STALLED or self is (Mode.STALLED_BACK if back else Mode.STALLED_THERE)


@dataclass(slots=True)
class Link:
    """The path from one process to another. ``timeout_s`` is how long a call waits for its answer.

    ``delays_s`` holds the longest delay of a message: the usual one, and one for each fault that makes the link slow.
    """

    random: Random
    timeout_s: float
    delays_s: list[float] = field(default_factory=lambda: [USUAL_DELAY_S])
    mode: Mode = Mode.WHOLE
    resets: int = 0
    _kept: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    _late: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, there: Callable[[], Awaitable[T]], timeout_s: float | None = None) -> T:
        """Run a call at the other end. Raises ``UnreachableError``, and the exceptions of the call."""
        try:
            async with asyncio.timeout(timeout_s or self.timeout_s):
                resets = self.resets
                await self._travel(resets, there)
                answer = await there()
                await self._travel(resets)
                return answer
        except TimeoutError:
            raise UnreachableError from None

    def cut(self, mode: Mode) -> None:
        """Cut or heal the link. Healing delivers held messages after a delay."""
        self.mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if mode is Mode.WHOLE:
            for there in self._kept:
                task = asyncio.get_running_loop().create_task(self._deliver(there))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
            self._kept.clear()

    def reset(self) -> None:
        """Break all calls in progress, because another process replaces the other end."""
        self.resets += 1
        self._kept.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def carry(self, resets: int, *, back: bool) -> None:
        """Wait as long as one message of a stream takes. Raises ``UnreachableError`` if the stream broke."""
        while True:
            self._check(resets)
            if not self.mode.holds(back=back):
                await asyncio.sleep(self.random.uniform(0.0001, max(self.delays_s)))
                self._check(resets)
                if not self.mode.holds(back=back):
                    return
            await self._changed.wait()

    def _check(self, resets: int) -> None:
        if resets != self.resets or self.mode is Mode.REFUSING:
            raise UnreachableError

    async def _travel(self, resets: int, cargo: Callable[[], Awaitable[object]] | None = None) -> None:
        if self.mode is not Mode.REFUSING:
            await asyncio.sleep(self.random.uniform(0.0001, max(self.delays_s)))
        self._check(resets)
        if self.mode.holds(back=cargo is None):
            if cargo is not None and self.random.random() < 0.5:
                self._kept.append(cargo)
            await asyncio.get_running_loop().create_future()

    async def _deliver(self, there: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(self.random.uniform(0, LATE_BY_S))
        with suppress(Exception):  # the caller no longer waits
            await there()


class StoreOverLink:
    """The PostgreSQL of an auth replica: ``IdentityStore``, ``ChangeLog`` and ``LiveTokens`` over a link."""

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

    async def add_agent(self, agent: NamedAgent) -> None:
        """Store an agent."""
        await self._change(lambda: self._store.add_agent(agent))

    async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
        """Revoke a token."""
        return await self._change(lambda: self._store.revoke_token(org_id, token_id, now))

    async def set_organization_status(self, org_id: UUID, status: OrganizationStatus) -> bool:
        """Change an organization's status."""
        return await self._change(lambda: self._store.set_organization_status(org_id, status))

    async def set_agent_status(self, org_id: UUID, agent_id: UUID, status: AgentStatus) -> bool:
        """Change an agent's status."""
        return await self._change(lambda: self._store.set_agent_status(org_id, agent_id, status))

    async def read(self, since: str | None) -> ChangesRead:
        """Return changes; see ``ChangeLog``."""
        try:
            return await self._link.call(lambda: self._store.change_log.read(since), LOG_TIMEOUT_S)
        except UnreachableError:
            raise ChangeLogUnavailableError from None

    async def count(self) -> int:
        """Count live tokens; see ``LiveTokens``."""
        return await self._tokens(self._store.count)

    async def page(self, after: UUID | None, limit: int) -> TokensPage:
        """Return live tokens; see ``LiveTokens``."""
        return await self._tokens(lambda: self._store.page(after, limit))

    async def _tokens(self, there: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._link.call(there)
        except UnreachableError:
            raise TokensUnavailableError from None

    async def _ask(self, there: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._link.call(there)
        except UnreachableError:
            raise ServiceDegradedError from None

    async def _change(self, there: Callable[[], Awaitable[T]]) -> T:
        """Begin, which changes nothing if it fails, then commit."""
        await self._ask(_nothing)
        try:
            return await self._link.call(there, COMMIT_TIMEOUT_S)
        except UnreachableError:
            raise OutcomeUnknownError from None


class EpochsOverLink:
    """The ``Epochs`` of an auth replica, over a link."""

    def __init__(self, link: Link, epochs: InMemoryEpochs, clock: Clock, *, replaces: bool = True) -> None:
        self._link = link
        self._epochs = epochs
        self._clock = clock
        self._replaces = replaces

    async def read_or_create(self, org_id: UUID) -> Epoch:
        """Return the epoch; see ``Epochs``."""
        asked_ns = self._clock.monotonic_ns()
        try:
            return await self._link.call(lambda: self._epochs.read_or_create(org_id), EPOCH_TIMEOUT_S)
        except UnreachableError:
            return unknown_epoch(asked_ns)

    async def replace(self, org_id: UUID) -> bool:
        """Replace the epoch; see ``Epochs``."""
        if not self._replaces:
            return True
        try:
            return await self._link.call(lambda: self._epochs.replace(org_id))
        except UnreachableError:
            return False


class CounterOverLink:
    """The ``RateLimiter`` of a worker, over a link. It never limits."""

    def __init__(self, link: Link, epochs: InMemoryEpochs, clock: Clock) -> None:
        self._link = link
        self._epochs = epochs
        self._clock = clock

    async def count(self, org_id: UUID, now: datetime) -> Tally:  # noqa: ARG002 - a RateLimiter's
        """Read the epoch."""
        return Tally(1, await self.epoch(org_id))

    async def epoch(self, org_id: UUID) -> Epoch:
        """Read the epoch; see ``RateLimiter``."""
        asked_ns = self._clock.monotonic_ns()

        async def there() -> Epoch:
            return self._epochs.read(org_id)

        try:
            read = await self._link.call(there)
        except UnreachableError:
            return unknown_epoch(asked_ns)
        return Epoch(read.value, was_read=True, asked_ns=asked_ns)


class TokensOverLink:
    """The ``TokenVerifier`` of a worker, at the replica that ``at`` finds."""

    def __init__(self, link: Link, at: Callable[[PersonalAccessToken], Awaitable[Fetched[Principal]]]) -> None:
        self._link = link
        self._at = at

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Return the token's principal; see ``TokenVerifier``."""
        try:
            return await self._link.call(lambda: self._at(token))
        except UnreachableError:
            raise ServiceDegradedError from None


class AgentsOverLink:
    """The ``AgentVerifier`` of a worker, at the replica that ``at`` finds."""

    def __init__(self, link: Link, at: Callable[[UUID, UUID], Awaitable[Fetched[Agent]]]) -> None:
        self._link = link
        self._at = at

    async def verify(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent]:
        """Return the agent; see ``AgentVerifier``."""
        try:
            return await self._link.call(lambda: self._at(org_id, agent_id))
        except UnreachableError:
            raise AuthUnavailableError from None


class SimulatedStream:
    """One stream between a worker and a replica. Messages keep their order in each direction."""

    def __init__(self, link: Link, server: WatchServer, position: str | None) -> None:
        self._link = link
        self._server = server
        self._resets = link.resets
        self._there: asyncio.Queue[int] = asyncio.Queue()
        self._back: asyncio.Queue[WatchMessage] = asyncio.Queue()
        self._received: asyncio.Queue[WatchMessage | None] = asyncio.Queue()
        self.sender_may_send: asyncio.Event | None = None
        server.open(self, position)

    def ping(self, number: int) -> None:
        """Send a ping; see ``WatchStream``."""
        self._there.put_nowait(number)

    def send(self, message: WatchMessage) -> None:
        """Send a message; see ``WatchClient``."""
        self._back.put_nowait(message)

    async def carry_there(self) -> None:
        """Deliver pings until cancelled or broken."""
        with suppress(UnreachableError):
            while True:
                number = await self._there.get()
                await self._link.carry(self._resets, back=False)
                self._server.ping(self, number)
        self.break_off()

    async def carry_back(self) -> None:
        """Deliver messages until cancelled or broken."""
        with suppress(UnreachableError):
            while True:
                message = await self._back.get()
                if self.sender_may_send is not None:
                    await self.sender_may_send.wait()
                await self._link.carry(self._resets, back=True)
                self._received.put_nowait(message)
        self.break_off()

    def break_off(self) -> None:
        """End the stream at both ends."""
        self._server.close(self)
        self._received.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[WatchMessage]:
        """Return messages; see ``WatchStream``."""
        while (message := await self._received.get()) is not None:
            yield message
        raise StreamLostError


class StreamsOverLink:
    """The ``WatchConnector`` of a worker, to the replica that ``choose`` names."""

    def __init__(
        self, link: Link, choose: Callable[[], WatchServer | None], on_open: Callable[[SimulatedStream], None]
    ) -> None:
        self._link = link
        self._choose = choose
        self._on_open = on_open

    @asynccontextmanager
    async def open(self, position: str | None) -> AsyncIterator[SimulatedStream]:
        """Open a stream; see ``WatchConnector``."""
        try:
            await self._link.carry(self._link.resets, back=False)
        except UnreachableError:
            raise StreamLostError from None
        server = self._choose()
        if server is None:
            raise StreamLostError
        stream = SimulatedStream(self._link, server, position)
        self._on_open(stream)
        carriers = [asyncio.ensure_future(stream.carry_there()), asyncio.ensure_future(stream.carry_back())]
        try:
            yield stream
        finally:
            server.close(stream)
            for carrier in carriers:
                carrier.cancel()
