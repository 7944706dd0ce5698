"""A simulated world that runs the freshness protocol: auth replicas, workers, PostgreSQL, Redis and faults.

A seed decides everything, and time is simulated. One fault is active at a time, and the next begins only when the world
has settled: the protocol guarantees its bound for this case.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, TypeVar

from harness.freshness_faults import Faults
from harness.freshness_links import UnreachableError
from harness.freshness_processes import STALE_IF_ERROR_S, Parts, Replica, Rules, SharedMemorySegment, Worker
from harness.memory.epochs import InMemoryEpochs
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from harness.simulated_time import LoopClock
from harness.tenants import new_agent, new_organization
from ibex.domain.errors import AgentSuspendedError, InvalidTokenError, RetryableError
from ibex.domain.freshness.kinds import BOUND_S
from ibex.domain.identity.management import OrganizationStatus, TokenGrant
from ibex.domain.identity.model import AgentStatus
from ibex.domain.identity.permissions import AGENT_DEFAULT
from ibex.domain.proxying.admission import Credentials
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.identity.model import PersonalAccessToken

T = TypeVar("T")

SETTLED_S = 5.0
REMEMBERED_S = 12.0
UNDER_WAY_S = 0.2
"""A request so soon after something was allowed again may still hear of the time before."""


class ViolatedError(AssertionError):
    """The protocol breaks its guarantee."""


@dataclass(slots=True)
class Ban:
    """A reason to refuse requests: when it was committed, and when its call returned, by region."""

    since: float = math.inf
    known_since: dict[int, float] = field(default_factory=dict)
    lifted_at: float = -math.inf

    def begin(self, now: float) -> None:
        """Record that the ban is committed, possibly again."""
        self.since = min(self.since, now)

    def lift(self, now: float) -> None:
        """Record that the end of the ban is committed."""
        self.since = math.inf
        self.known_since.clear()
        self.lifted_at = now

    def know(self, now: float, region: int) -> None:
        """Record that the call that made the change has returned, in a region."""
        if self.since < math.inf:
            self.known_since.setdefault(region, now)


@dataclass(slots=True)
class Tenant:
    """An organization with its only agent. Either can be banned."""

    id: UUID
    agent_id: UUID
    suspended: Ban
    paused: Ban


@dataclass(slots=True)
class Holder:
    """The holder of a token."""

    token: PersonalAccessToken
    tenant: Tenant
    revoked: Ban

    @property
    def bans(self) -> tuple[Ban, Ban, Ban]:
        """All bans that apply to the holder's requests."""
        return self.revoked, self.tenant.suspended, self.tenant.paused

    @property
    def invalid(self) -> tuple[Ban, Ban]:
        """All bans that make the token itself invalid."""
        return self.revoked, self.tenant.suspended


class WatchedStore(InMemoryIdentity):
    """A store that records when bans are committed."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def revoke_token(self, org_id: UUID, token_id: UUID, now: datetime) -> bool:
        """Revoke a token."""
        self._world.revocations[token_id].begin(self._world.now)
        self._world.tell(f"committed: token {token_id.int % 1000} revoked")
        return await super().revoke_token(org_id, token_id, now)

    async def set_organization_status(self, org_id: UUID, status: OrganizationStatus) -> bool:
        """Change an organization's status."""
        self._set(self._world.tenants[org_id].suspended, begin=status is OrganizationStatus.SUSPENDED)
        return await super().set_organization_status(org_id, status)

    async def set_agent_status(self, org_id: UUID, agent_id: UUID, status: AgentStatus) -> bool:
        """Change an agent's status."""
        self._set(self._world.tenants[org_id].paused, begin=status is AgentStatus.PAUSED)
        return await super().set_agent_status(org_id, agent_id, status)

    def _set(self, ban: Ban, *, begin: bool) -> None:
        self._world.tell(f"committed: {'ban' if begin else 'end of a ban'}")
        (ban.begin if begin else ban.lift)(self._world.now)


class World:
    """The simulated world. ``live`` runs it, and raises ``ViolatedError`` if it finds a violation."""

    def __init__(
        self, seed: int, *, only: str = "", at_a_time: int = 1, regions: int = 0, rules: Rules | None = None
    ) -> None:
        """Take the seed, the only kind of fault if it is restricted, and the number of simultaneous faults.

        ``regions`` is the number of regions; with 0, the seed decides.
        """
        self.seed = seed
        self.random = Random(seed)  # noqa: S311 - it decides what happens, not who gets in
        clock, ids = LoopClock(), SequentialIds(seed % 65_536)
        self.clock = clock
        self.store = WatchedStore(self)
        self.rules = rules or Rules()
        self.parts = Parts(self.random, clock, ids, self.store, self.rules)
        number = regions or self.random.choice((1, 1, 2))
        stale_if_error_s = STALE_IF_ERROR_S if number == 1 else 0.0
        self.regions = [
            SharedMemorySegment(InMemoryEpochs(clock, ids), stale_if_error_s, each) for each in range(number)
        ]
        self.tenants: dict[UUID, Tenant] = {}
        self.revocations: defaultdict[UUID, Ban] = defaultdict(Ban)
        self.holders: list[Holder] = []
        self.worst: defaultdict[str, float] = defaultdict(float)
        self.outcomes: defaultdict[str, int] = defaultdict(int)
        self.steps = 0
        self.log: list[str] = []
        self.wrong: list[str] = []
        self.faults = Faults(self, only, at_a_time)
        self._tasks: set[asyncio.Task[None]] = set()
        self._went_wrong = asyncio.Event()

    @property
    def replicas(self) -> list[Replica]:
        """All auth replicas."""
        return [replica for region in self.regions for replica in region.replicas]

    @property
    def workers(self) -> list[Worker]:
        """All workers."""
        return [worker for region in self.regions for worker in region.workers]

    @property
    def now(self) -> float:
        """The simulated time in seconds."""
        return asyncio.get_running_loop().time()

    @property
    def is_well(self) -> bool:
        """Whether no fault is active, and none was for a while."""
        return self.now > self.faults.broken_until + SETTLED_S

    def tell(self, what: str) -> None:
        """Append a step to the log that a violation includes."""
        self.steps += 1
        self.log.append(f"{self.now:9.4f} {what}")

    async def live(self, seconds: float) -> None:
        """Run for a number of seconds. Raises ``ViolatedError``, with the seed and the log, at the first violation."""
        chance = self.random
        for _ in range(chance.choice((1, 1, 2))):
            await self._settle_in()
        for region in self.regions:
            for _ in range(chance.choice((1, 2, 2, 3))):
                region.replicas.append(Replica(self.parts, region, self._bug))
            for _ in range(chance.choice((1, 2))):
                region.workers.append(Worker(self.parts, region, self._at_a_replica_of(region), self._bug))
        for worker in self.workers:
            self.spawn(self._requests(worker))
        self.spawn(self._operators())
        self.spawn(self.faults.happen())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._went_wrong.wait(), seconds)
        for replica in self.replicas:
            replica.kill()
        for worker in self.workers:
            worker.end_tasks()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(SETTLED_S)
        if self.wrong:
            raise ViolatedError("\n".join([f"seed {self.seed}: {self.wrong[0]}", *self.log]))

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run a task in the world."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._bug(error)

    def _bug(self, error: BaseException) -> None:
        self._is_wrong(f"a bug: {error!r}")

    def _is_wrong(self, what: str) -> None:
        self.wrong.append(what)
        self._went_wrong.set()

    async def _settle_in(self) -> None:
        organization = new_organization()
        agent = new_agent(organization.id)
        await self.store.add_organization(organization)
        await self.store.add_agent(agent)
        self.tenants[organization.id] = Tenant(organization.id, agent.id, Ban(), Ban())

    # Calls to auth, at any replica that is up

    def _at_a_replica_of(
        self, region: SharedMemorySegment
    ) -> Callable[[Worker, Callable[[Replica], Awaitable[object]]], Awaitable[object]]:
        async def ask(_worker: Worker, what: Callable[[Replica], Awaitable[object]]) -> object:
            alive = [replica for replica in region.replicas if replica.alive]
            if not alive:
                raise UnreachableError
            replica = self.random.choice(alive)
            await replica.may_run.wait()
            try:
                answer = await what(replica)
            finally:
                if not replica.alive:
                    raise UnreachableError
            await replica.may_run.wait()
            return answer

        return ask

    # Requests

    async def _requests(self, worker: Worker) -> None:
        chance = self.random
        while True:
            await asyncio.sleep(chance.choice((0.001, 0.05, 0.3, 1.0, 2.1)) * chance.random())
            if self.holders:
                self.spawn(self._request(worker, chance.choice(self.holders)))

    async def _request(self, worker: Worker, holder: Holder) -> None:
        began, well = self.now, self.is_well
        in_flight = InFlightExchange.begin(self.clock, holder.token.token_id, "t" * 32)
        credentials = Credentials(holder.token.reveal(), str(holder.tenant.agent_id))
        try:
            await worker.may_run.wait()
            admitted = await worker.admit(credentials, in_flight)
            await asyncio.sleep(self.random.choice((0.0, 0.0, 0.01, 4.0)) * self.random.random())
            await worker.may_run.wait()
            if self.rules.checks_again:
                await worker.admit.recheck(admitted, in_flight)
        except InvalidTokenError:
            outcome = "invalid"
        except AgentSuspendedError:
            outcome = "suspended"
        except RetryableError:
            outcome = "unavailable"
        else:
            outcome = "served"
        self._judge(holder, outcome, began, worker.region_number, well=well and self.is_well)

    def _judge(self, holder: Holder, outcome: str, began: float, region: int, *, well: bool) -> None:
        self.outcomes[outcome] += 1
        what = f"token {holder.token.token_id.int % 1000} {outcome}, asked at {began:.4f}"
        self.tell(what)
        if outcome == "served":
            late = max(self.now - ban.since for ban in holder.bans)
            fault = "none" if self.is_well else self.faults.current
            self.worst[fault] = max(self.worst[fault], late)
            if late > BOUND_S:
                self._is_wrong(f"{what}: forbidden {late:.3f} s before ({fault})")
            elif well and any(ban.known_since.get(region, math.inf) <= began for ban in holder.bans):
                self._is_wrong(f"{what}: though all was well and the change known")
        forbidding = {"invalid": holder.invalid, "suspended": (holder.tenant.paused,), "unavailable": holder.bans}
        bans = forbidding.get(outcome, ())
        lenient_s = {"invalid": UNDER_WAY_S, "suspended": BOUND_S, "unavailable": SETTLED_S}.get(outcome, 0.0)
        free = all(ban.since == math.inf and ban.lifted_at < began - lenient_s for ban in bans)
        if bans and free and (outcome != "unavailable" or well):
            self._is_wrong(f"{what}: though it is live ({self.faults.current})")

    # Actions of operators

    async def _operators(self) -> None:
        chance = self.random
        await asyncio.sleep(chance.random() * 2)
        for _ in range(chance.choice((1, 2, 3))):
            self.change(self._create)
        while True:
            await asyncio.sleep(chance.choice((0.1, 2.0, 8.0)) * chance.random())
            self.change()

    def change(self, what: Callable[[Replica], Coroutine[object, object, None]] | None = None) -> None:
        """Make an operator's change, at a replica that is up."""
        alive = [replica for replica in self.replicas if replica.alive]
        if alive:
            work = what or self.random.choice((self._create, self._create, self._revoke, self._revoke, self._ban))
            replica = self.random.choice(alive)
            replica.spawn(self._when_it_runs(replica, work))

    async def _when_it_runs(self, replica: Replica, work: Callable[[Replica], Coroutine[object, object, None]]) -> None:
        await replica.may_run.wait()
        await work(replica)

    async def _create(self, replica: Replica) -> None:
        tenant = self.random.choice(list(self.tenants.values()))
        token = await replica.manage.create_token(tenant.id, TokenGrant("a token", AGENT_DEFAULT))
        holder = Holder(token, tenant, self.revocations[token.token_id])
        self.holders.append(holder)
        self.holders = [h for h in self.holders if self.now - h.revoked.since < REMEMBERED_S][-6:]
        self.tell(f"returned: token {token.token_id.int % 1000} created")
        self._try_at_once(holder)

    async def _revoke(self, replica: Replica) -> None:
        live = [holder for holder in self.holders if holder.revoked.since == math.inf]
        if not live:
            return
        holder = self.random.choice(live)
        await replica.manage.revoke_token(holder.tenant.id, holder.token.token_id)
        holder.revoked.know(self.now, replica.region_number)
        self.tell(f"returned: token {holder.token.token_id.int % 1000} revoked")
        self._try_at_once(holder)

    async def _ban(self, replica: Replica) -> None:
        tenant = self.random.choice(list(self.tenants.values()))
        begin = self.random.random() < 0.3
        if self.random.random() < 0.5:
            status = OrganizationStatus.SUSPENDED if begin else OrganizationStatus.ACTIVE
            await replica.manage.set_organization_status(tenant.id, status)
            ban = tenant.suspended
        else:
            agent_status = AgentStatus.PAUSED if begin else AgentStatus.ACTIVE
            await replica.manage.set_agent_status(tenant.id, tenant.agent_id, agent_status)
            ban = tenant.paused
        ban.know(self.now, replica.region_number)
        for holder in self.holders:
            if holder.tenant is tenant:
                self._try_at_once(holder)

    def _try_at_once(self, holder: Holder) -> None:
        for worker in self.workers:
            if self.random.random() < 0.6:
                self.spawn(self._request(worker, holder))
