"""Concurrency limits for a worker's calls to auth, so that a flood cannot starve the calls for live tokens.

The event loop makes about 5,000 calls per second, so 128 calls take about 25 ms. With more in flight, all would miss
their deadline. Each share of the calls has its own limit and queue. A call waits in the queue for at most the timeout
of a call. The queue is round-robin by tenant: the token id of a token call, the organization of an agent call
(ADR 0040).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from ibex.domain.errors import InvalidTokenError, ServiceDegradedError, TooManyGuessesError, TooManyLookupsError
from ibex.domain.identity.guessed_secrets import GuessedSecrets, LeakyBucket, RecentlyConfirmed, Share

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.freshness.cache import Fetched
    from ibex.domain.identity.model import Agent, Principal

MAX_CALLS: Final = 128
LIMITS: Final[Mapping[Share, int]] = {
    Share.PROVEN: 96,
    Share.FIRST_SEEN: 40,
    Share.AGENT: 32,
    Share.SUSPECT: 16,
    Share.LANE: 8,
}
"""The maximum number of concurrent calls of each share.

``PROVEN`` is limited to 96, and so is the sum of the others: each side always has a quarter of ``MAX_CALLS`` to itself.
"""
MAX_AGENT_CALLS_PER_ORG: Final = 8
"""The maximum number of concurrent ``AGENT`` calls of one organization."""
ABSENT_AGENTS_PER_SECOND: Final = 50
ABSENT_AGENTS_BURST: Final = 20
"""The rate limit of lookups of absent agents, per organization. Lookups that find an agent do not count."""
MAX_ORGS_WITH_ABSENT_AGENTS: Final = 10_000
MAX_WAITING: Final = 1_000
MAX_WAITING_PER_TENANT: Final = 250
RETRY_AFTER_S: Final = 1.0
_NS: Final = 1_000_000_000


def _ignore(_share: Share) -> None:
    pass


class _Queue:
    """A bounded round-robin queue of the waiting calls of one share."""

    def __init__(self) -> None:
        self._tenants: dict[int, dict[asyncio.Future[bool], None]] = {}
        self._waiting = 0

    def add(self, tenant: int) -> asyncio.Future[bool] | None:
        """Return a future that becomes True when a slot is free; None if the queue is full."""
        own = self._tenants.get(tenant)
        if self._waiting >= MAX_WAITING or (own is not None and len(own) >= MAX_WAITING_PER_TENANT):
            return None
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._tenants.setdefault(tenant, {})[turn] = None
        self._waiting += 1
        return turn

    def remove(self, tenant: int, turn: asyncio.Future[bool]) -> None:
        """Remove a call that has stopped waiting."""
        own = self._tenants.get(tenant)
        if own is not None and turn in own:
            del own[turn]
            self._waiting -= 1
            if not own:
                del self._tenants[tenant]

    def next(self, may_run: Callable[[int], bool]) -> tuple[int, asyncio.Future[bool]] | None:
        """Remove the next call whose tenant may run one more; return tenant and call, or None if no call may run."""
        tenant = next(filter(may_run, self._tenants), None)
        if tenant is None:
            return None
        own = self._tenants.pop(tenant)
        turn = next(iter(own))
        del own[turn]
        self._waiting -= 1
        if own:
            self._tenants[tenant] = own  # behind the others
        return tenant, turn


class CallShares:
    """Slots for concurrent calls, limited in total, by share, and for agents by organization."""

    def __init__(self) -> None:
        self._in_flight = dict.fromkeys(Share, 0)
        self._agent_calls: Counter[int] = Counter()
        self._total = 0
        self._queues = {share: _Queue() for share in Share}

    async def enter(self, share: Share, tenant: int, timeout_s: float) -> bool:
        """Take a slot, which ``leave`` releases. Return False if no slot becomes free within the timeout."""
        if self._is_free(share) and self._may_run(share, tenant):
            self._take(share, tenant)
            return True
        turn = self._queues[share].add(tenant)
        if turn is None:
            return False
        timer = asyncio.get_running_loop().call_later(timeout_s, _give_up, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave(share, tenant)  # the call had a slot already
            raise
        finally:
            timer.cancel()
            self._queues[share].remove(tenant, turn)

    def leave(self, share: Share, tenant: int) -> None:
        """Release a slot, and give free slots to waiting calls, ``PROVEN`` first."""
        self._in_flight[share] -= 1
        self._total -= 1
        if share is Share.AGENT:
            self._agent_calls[tenant] -= 1
            if not self._agent_calls[tenant]:
                del self._agent_calls[tenant]
        for other in Share:
            may_run = partial(self._may_run, other)
            while self._is_free(other) and (found := self._queues[other].next(may_run)) is not None:
                next_tenant, turn = found
                if not turn.done():
                    self._take(other, next_tenant)
                    turn.set_result(True)

    def in_flight(self, share: Share) -> int:
        """Return the number of a share's calls in flight."""
        return self._in_flight[share]

    def _is_free(self, share: Share) -> bool:
        return self._total < MAX_CALLS and self._in_flight[share] < LIMITS[share]

    def _may_run(self, share: Share, tenant: int) -> bool:
        return share is not Share.AGENT or self._agent_calls[tenant] < MAX_AGENT_CALLS_PER_ORG

    def _take(self, share: Share, tenant: int) -> None:
        self._in_flight[share] += 1
        self._total += 1
        if share is Share.AGENT:
            self._agent_calls[tenant] += 1


def _give_up(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)


class AuthCalls:
    """Runs a worker's calls to auth within their shares. Remembers the tokens and agents that auth has confirmed."""

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_s: float,
        refused: Callable[[Share], None] = _ignore,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Set the maximum wait for a slot, in seconds. ``refused`` is called with the share of each refused call."""
        self._clock = clock
        self._timeout_s = timeout_s
        self._refused = refused
        self._sleep = sleep
        self._shares = CallShares()
        self._guesses = GuessedSecrets()
        self._lane_bucket = LeakyBucket()
        self._agents: RecentlyConfirmed[tuple[int, int]] = RecentlyConfirmed()
        self._absent_agents: dict[int, LeakyBucket] = {}

    async def verify_token(
        self, digest: bytes, token_id: UUID, verify: Callable[[], Awaitable[Fetched[Principal]]]
    ) -> Fetched[Principal]:
        """Return what ``verify`` returns.

        Raises what ``verify`` raises, and ``ServiceDegradedError`` if the call got no slot.
        """
        attempt = self._guesses.begin(digest, token_id, self._clock.monotonic_ns())
        share = attempt.share
        is_decided = False
        try:
            bucket = self._lane_bucket if share is Share.LANE else None
            if not await self._enter(share, token_id.int, bucket):
                self._refused(share)
                refusal = TooManyGuessesError if share is Share.LANE else ServiceDegradedError
                raise refusal(retry_after_s=RETRY_AFTER_S)
            try:
                fetched = await verify()
            finally:
                self._shares.leave(share, token_id.int)
            self._guesses.confirmed(attempt, digest, self._clock.monotonic_ns())
            is_decided = True
        except InvalidTokenError:
            self._guesses.failed(attempt, digest)
            is_decided = True
            raise
        finally:
            if not is_decided:
                self._guesses.undecided(attempt)
        return fetched

    async def verify_agent(
        self, key: tuple[int, int], verify: Callable[[], Awaitable[Fetched[Agent | None]]]
    ) -> Fetched[Agent | None]:
        """Return what ``verify`` returns: the agent, or None if the organization has no such agent.

        Raises what ``verify`` raises, and ``TooManyLookupsError`` if the call got no slot.
        """
        org_id, now_ns = key[0], self._clock.monotonic_ns()
        if self._agents.has(key, now_ns):
            share, bucket = Share.PROVEN, None
        else:
            share, bucket = Share.AGENT, self._absent_agents_of(org_id)
        if not await self._enter(share, org_id, bucket):
            self._refused(share)
            raise TooManyLookupsError(retry_after_s=RETRY_AFTER_S)
        is_absent = False
        try:
            fetched = await verify()
            is_absent = fetched.value is None
        finally:
            self._shares.leave(share, org_id)
            if bucket is not None and not is_absent:
                bucket.refund()
        if is_absent:
            self._agents.discard(key)
        else:
            self._agents.add(key, self._clock.monotonic_ns())
        return fetched

    def _absent_agents_of(self, org_id: int) -> LeakyBucket:
        bucket = self._absent_agents.get(org_id)
        if bucket is None:
            bucket = self._absent_agents[org_id] = LeakyBucket(ABSENT_AGENTS_PER_SECOND, ABSENT_AGENTS_BURST)
            if len(self._absent_agents) > MAX_ORGS_WITH_ABSENT_AGENTS:
                del self._absent_agents[next(iter(self._absent_agents))]
        return bucket

    async def _enter(self, share: Share, tenant: int, bucket: LeakyBucket | None = None) -> bool:
        """Take a slot, after waiting for the bucket's turn if there is one. Return False if that takes too long."""
        left_s = self._timeout_s
        if bucket is not None:
            wait_ns = bucket.reserve(self._clock.monotonic_ns(), int(left_s * _NS))
            if wait_ns is None:  # the bucket is full for longer than the timeout
                return False
            if wait_ns:
                await self._sleep(wait_ns / _NS)
                left_s -= wait_ns / _NS
        has_slot = await self._shares.enter(share, tenant, left_s)
        if bucket is not None and not has_slot:
            bucket.refund()
        return has_slot
