"""The processes of the simulated world: auth replicas and workers, wired as in production, over simulated links."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from harness.freshness_links import (
    AgentsOverLink,
    CounterOverLink,
    EpochsOverLink,
    Link,
    Mode,
    StoreOverLink,
    StreamsOverLink,
    TokensOverLink,
    UnreachableError,
)
from ibex.domain.errors import IbexError
from ibex.domain.freshness.cache import FreshCache
from ibex.domain.freshness.change_log import WatchServer
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import TokenFilter, TokensUnavailableError
from ibex.domain.freshness.unknown_tokens import UnknownTokens
from ibex.domain.freshness.validity import Validity
from ibex.domain.freshness.watch import Watch
from ibex.domain.identity.auth_calls import AuthCalls
from ibex.domain.identity.cache import CachedAgents, CachedTokens, agent_policy, token_policy
from ibex.domain.identity.management import ManageIdentity, VerifyAgent, VerifyToken
from ibex.domain.identity.token_hash import TokenPeppers
from ibex.domain.proxying.admission import Admission
from ibex.domain.proxying.refused_requests import RefusedRequests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import datetime
    from random import Random
    from uuid import UUID

    from harness.freshness_links import SimulatedStream
    from harness.memory.epochs import InMemoryEpochs
    from harness.memory.identity import InMemoryIdentity
    from ibex.domain.clock import Clock
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.freshness.token_filter import TokensPage
    from ibex.domain.identity.management import IdentityStore
    from ibex.domain.identity.model import Agent, PersonalAccessToken, Principal
    from ibex.domain.ids import IdSource

EPOCHS_TIMEOUT_S = 0.5
COUNTER_TIMEOUT_S = 0.05
AUTH_TIMEOUT_S = 0.05
STORE_TIMEOUT_S = 6.0
STALE_IF_ERROR_S = 300.0
PEPPERS = TokenPeppers({"k": bytes(16)})


@dataclass(slots=True)
class Rules:
    """Rules of the protocol that a world can disable, to show that the simulation detects their absence."""

    validity: type[Validity] = Validity
    watch_server: type[WatchServer] = WatchServer
    cache: type[FreshCache[Any, Any]] = FreshCache
    unknown_tokens: type[UnknownTokens] = UnknownTokens
    replaces_epochs: bool = True
    checks_again: bool = True
    begins_incarnations: bool = True


@dataclass(slots=True)
class Parts:
    """The parts that all processes share: time, ids, random numbers and the only PostgreSQL."""

    random: Random
    clock: Clock
    ids: IdSource
    store: InMemoryIdentity
    rules: Rules


@dataclass(slots=True)
class SharedMemorySegment:
    """A Redis and the processes of its region. ``stale_if_error_s`` is 0 if there are several regions."""

    epochs: InMemoryEpochs
    stale_if_error_s: float
    number: int = 0
    replicas: list[Replica] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)


@dataclass(slots=True)
class Silent:
    """A ``CacheObserver`` that ignores every notification."""

    def hit(self, kind: Kind) -> None:
        """See ``CacheObserver``."""

    def missed(self, kind: Kind) -> None:
        """See ``CacheObserver``."""

    def refetched(self, kind: Kind) -> None:
        """See ``CacheObserver``."""

    def served_stale(self, kind: Kind) -> None:
        """See ``CacheObserver``."""


class _OffsetClock:
    def __init__(self, clock: Clock, of: Replica) -> None:
        self._clock = clock
        self._of = of

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic_ns(self) -> int:
        return self._clock.monotonic_ns() + self._of.offset_ns


class Process:
    """The behaviour of both kinds of processes: run tasks, pause, get killed."""

    def __init__(self, on_bug: Callable[[BaseException], None]) -> None:
        self._on_bug = on_bug
        self._running: set[asyncio.Task[object]] = set()
        self.may_run = asyncio.Event()
        self.may_run.set()

    def spawn(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        """Run a task in this process."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def end_tasks(self) -> None:
        """Cancel all tasks."""
        for task in list(self._running):
            task.cancel()

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, IbexError):
            self._on_bug(error)


class Replica(Process):
    """One auth process, which can be killed and started again."""

    def __init__(self, parts: Parts, region: SharedMemorySegment, on_bug: Callable[[BaseException], None]) -> None:
        super().__init__(on_bug)
        self._parts = parts
        self._region = region
        self.region_number = region.number
        self.offset_ns = 0
        self.streams: list[SimulatedStream] = []
        self.start()

    def start(self) -> None:
        """Start a new process."""
        parts = self._parts
        self.offset_ns = parts.random.randrange(10**15)
        clock = _OffsetClock(parts.clock, self)
        self.to_store = Link(parts.random, STORE_TIMEOUT_S)
        self.to_epochs = Link(parts.random, EPOCHS_TIMEOUT_S)
        store = StoreOverLink(self.to_store, parts.store)
        identity = cast("IdentityStore", store)
        epochs = EpochsOverLink(self.to_epochs, self._region.epochs, clock, replaces=parts.rules.replaces_epochs)
        self.live_tokens = store
        self.manage = ManageIdentity(identity, PEPPERS, epochs, clock, parts.ids)
        self.verify_token = VerifyToken(identity, PEPPERS, epochs, clock)
        self.verify_agent = VerifyAgent(identity, epochs)
        self.watch_server = parts.rules.watch_server(store)
        self.alive = True
        self.may_run.set()
        self.spawn(self.watch_server.run())

    def kill(self) -> None:
        """Kill the process: from now on, none of its messages reach another process."""
        self.alive = False
        self.may_run.set()
        for stream in self.streams:
            stream.break_off()
        self.streams.clear()
        for link in (self.to_store, self.to_epochs):
            link.cut(Mode.REFUSING)
        self.end_tasks()


class Worker(Process):
    """One proxy process. It calls any reachable auth replica of its region."""

    def __init__(
        self,
        parts: Parts,
        region: SharedMemorySegment,
        at: Callable[[Worker, Callable[[Replica], Awaitable[object]]], Awaitable[object]],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        super().__init__(on_bug)
        self._parts = parts
        self._region = region
        self.region_number = region.number
        self._at = at
        clock = parts.clock
        self.to_epochs = Link(parts.random, COUNTER_TIMEOUT_S)
        self.to_auth = Link(parts.random, AUTH_TIMEOUT_S)
        self.validity = parts.rules.validity()
        self.filter = TokenFilter(_LiveTokensOf(self), b"k" * 16)
        connector = StreamsOverLink(self.to_auth, self._choose, self._opened)
        self.watch = Watch(connector, self.validity, clock, parts.random.random, (self.filter,))
        counter = CounterOverLink(self.to_epochs, region.epochs, clock)
        stale_s = region.stale_if_error_s
        calls = AuthCalls(clock, timeout_s=AUTH_TIMEOUT_S)
        tokens = CachedTokens(
            TokensOverLink(self.to_auth, self._verify_token),
            parts.rules.unknown_tokens(self.filter, self.watch, clock),
            parts.rules.cache(Kind.TOKENS, {}, token_policy(stale_if_error_s=stale_s), self.validity, clock, Silent()),
            calls,
        )
        agents = CachedAgents(
            AgentsOverLink(self.to_auth, self._verify_agent),
            parts.rules.cache(Kind.AGENTS, {}, agent_policy(stale_if_error_s=stale_s), self.validity, clock, Silent()),
            calls,
            clock,
        )
        self.admit = Admission(tokens, agents, counter, RefusedRequests(default_rpm=0), default_rpm=0)
        self._last: Replica | None = None
        self.spawn(self.watch.run())
        self.spawn(self.filter.run())

    async def ask(self, what: Callable[[Replica], Awaitable[object]]) -> object:
        """Call a replica of this region."""
        return await self._at(self, what)

    async def _verify_token(self, token: PersonalAccessToken) -> Fetched[Principal]:
        found = await self._at(self, lambda replica: replica.verify_token.verify(token))
        return cast("Fetched[Principal]", found)

    async def _verify_agent(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent]:
        found = await self._at(self, lambda replica: replica.verify_agent.verify(org_id, agent_id))
        return cast("Fetched[Agent]", found)

    def _choose(self) -> WatchServer | None:
        alive = [replica for replica in self._region.replicas if replica.alive]
        others = [replica for replica in alive if replica is not self._last] or alive
        if not others:
            return None
        self._last = self._parts.random.choice(others)
        return self._last.watch_server

    def _opened(self, stream: SimulatedStream) -> None:
        if self._last is not None:
            stream.sender_may_send = self._last.may_run
            self._last.streams.append(stream)


@dataclass(slots=True)
class _LiveTokensOf:
    worker: Worker

    async def count(self) -> int:
        return cast("int", await self._ask(lambda replica: replica.live_tokens.count()))

    async def page(self, after: UUID | None, limit: int) -> TokensPage:
        return cast("TokensPage", await self._ask(lambda replica: replica.live_tokens.page(after, limit)))

    async def _ask(self, what: Callable[[Replica], Awaitable[object]]) -> object:
        try:
            return await self.worker.to_auth.call(lambda: self.worker.ask(what), 1.0)
        except UnreachableError:
            raise TokensUnavailableError from None
