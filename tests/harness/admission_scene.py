"""Auth and a worker that admits callers, over a real Redis. Identity and the change log are in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.chat_scene import REQUEST_ID, TRACE_ID
from harness.memory.identity import InMemoryIdentity
from harness.redis_worker import RedisWorker
from ibex.adapters.memory.watch import InProcessWatch
from ibex.adapters.system.ids import SystemIds
from ibex.adapters.telemetry.caches import CacheTelemetry
from ibex.adapters.telemetry.registry import Registry
from ibex.domain.freshness.cache import FreshCache
from ibex.domain.freshness.change_log import WatchServer
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import TokenFilter
from ibex.domain.freshness.unknown_tokens import UnknownTokens
from ibex.domain.freshness.validity import Validity
from ibex.domain.freshness.watch import Watch
from ibex.domain.identity.auth_calls import AuthCalls
from ibex.domain.identity.cache import CachedAgents, CachedTokens, agent_policy, token_policy
from ibex.domain.identity.management import ManageIdentity, TokenGrant, VerifyAgent, VerifyToken
from ibex.domain.identity.permissions import CHAT
from ibex.domain.identity.token_hash import TokenPeppers
from ibex.domain.proxying.admission import Admission, Admitted, Credentials
from ibex.domain.proxying.refused_requests import RefusedRequests
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.identity.model import PersonalAccessToken

_UNHURRIED_S = 10.0
_TENANTS = 20


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organization with two tokens and the agent that both act as."""

    org_id: UUID
    agent_id: UUID
    token: PersonalAccessToken
    other_token: PersonalAccessToken


class AdmissionScene:
    """A worker that counts requests and reads epochs, and auth with its own link. Only some tests run the watch."""

    def __init__(self, url: str, clock: Clock, timeout_s: float) -> None:
        self.clock = clock
        self.worker = RedisWorker(url, timeout_s=timeout_s, clock=clock)
        self.auth = RedisWorker(url, timeout_s=timeout_s, clock=clock)
        self.store = InMemoryIdentity()
        self.ids = SystemIds()
        peppers = TokenPeppers({"k1": b"a pepper of some length"})
        self.manage = ManageIdentity(self.store, peppers, self.auth.epochs, clock, self.ids)
        self.watch_server = WatchServer(self.store.change_log)
        validity = Validity()
        self.watch = Watch(InProcessWatch(self.watch_server), validity, clock, lambda: 0.5)
        unknown = UnknownTokens(TokenFilter(self.store, bytes(16)), self.watch, clock)
        calls = AuthCalls(clock, timeout_s=_UNHURRIED_S)
        observer = CacheTelemetry(Registry("ibex_proxy_"))

        def cache(kind: Kind, policy: Any, absent: Any = None) -> FreshCache[Any, Any]:
            return FreshCache(kind, {}, policy, validity, clock, observer, absent)

        self._admission = Admission(
            CachedTokens(
                VerifyToken(self.store, peppers, self.auth.epochs, clock),
                unknown,
                cache(Kind.TOKENS, token_policy(stale_if_error_s=300)),
                calls,
            ),
            CachedAgents(
                VerifyAgent(self.store, self.auth.epochs),
                cache(Kind.AGENTS, agent_policy(stale_if_error_s=300), {}),
                calls,
                clock,
            ),
            self.worker.limiter,
            RefusedRequests(default_rpm=0),
            default_rpm=0,
        )

    async def tenant(self, fits: Callable[[UUID], bool] = lambda _: True) -> Tenant:
        """Create an organization, with an agent and tokens, whose id satisfies a condition."""
        while True:
            organization = await self.manage.create_organization(str(self.ids.uuid7()))
            if fits(organization.id):
                break
        agent = await self.manage.create_agent(organization.id, "support")
        tokens = [await self.manage.create_token(organization.id, TokenGrant("laptop", CHAT)) for _ in range(2)]
        return Tenant(organization.id, agent.id, *tokens)

    async def known_tenant(self, fits: Callable[[UUID], bool] = lambda _: True) -> Tenant:
        """Return a tenant with cached token, agent and a known epoch. Retries, since a busy machine may be too slow."""
        for _ in range(_TENANTS):
            tenant = await self.tenant(fits)
            admitted = [await self.admit(tenant, token) for token in (tenant.token, tenant.other_token)]
            if all(one.token.entry.epoch.was_read and one.agent.entry.epoch.was_read for one in admitted):
                return tenant
        raise AssertionError("auth never reads an epoch in time")

    async def admit(self, tenant: Tenant, token: PersonalAccessToken) -> Admitted:
        """Admit a request of a tenant. Raises as ``Admission``."""
        credentials = Credentials(token.reveal(), str(tenant.agent_id))
        return await self._admission(credentials, InFlightExchange.begin(self.clock, REQUEST_ID, TRACE_ID))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AdmissionScene]:
        """Connect both sides to Redis."""
        for side in (self.worker, self.auth):
            await side.link.open()
        try:
            yield self
        finally:
            for side in (self.worker, self.auth):
                await side.link.close()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Run the watch."""
        tasks = [asyncio.create_task(self.watch_server.run()), asyncio.create_task(self.watch.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
