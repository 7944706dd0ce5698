"""The admission use case over scripted collaborators, caches and epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from harness.chat_scene import (
    AGENT,
    EPOCH_SEED,
    MOMENT,
    ORG,
    TOKEN_TEXT,
    Caches,
    ScriptedAgents,
    ScriptedTokens,
    WaitingRateLimiter,
    principal,
)
from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.memory.ids import SequentialIds
from ibex.domain.identity.model import Agent, AgentStatus
from ibex.domain.proxying.admission import Admission, Credentials
from ibex.domain.proxying.refused_requests import RefusedRequests
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from ibex.domain.freshness.kinds import Kind
    from ibex.domain.record.exchange import Caller


class Door:
    """The admission use case with its collaborators and the in-flight exchange of one request."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.epochs = InMemoryEpochs(self.clock, SequentialIds(EPOCH_SEED))
        self.tokens = ScriptedTokens(principal(), epochs=self.epochs)
        self.agents = ScriptedAgents(Agent(AGENT, ORG, AgentStatus.ACTIVE), epochs=self.epochs)
        self.rate_limiter = WaitingRateLimiter(self.epochs)
        self.caches = Caches(self.clock)
        self.in_flight = InFlightExchange.begin(self.clock, UUID(int=1), "t" * 32)
        self.admit = Admission(
            self.caches.tokens(self.tokens),
            self.caches.agents(self.agents),
            self.rate_limiter,
            RefusedRequests(default_rpm=600),
            default_rpm=600,
        )

    async def knock(self, token: str | None = TOKEN_TEXT, agent_id: str | None = str(AGENT)) -> Caller | None:
        """Request admission and return the caller."""
        await self.admit(Credentials(token, agent_id), self.in_flight)
        return self.in_flight.caller

    async def warm(self) -> None:
        """Admit a request, so that token and agent are cached."""
        await self.knock()
        for asked in (self.tokens.asked, self.agents.asked, self.rate_limiter.counted, self.rate_limiter.asked):
            asked.clear()

    def confirm(self) -> None:
        """Confirm the present time: receive a pong whose ping is sent now."""
        self.caches.confirm()

    async def change(self) -> None:
        """Announce a change by replacing the organization's epoch, as every process that makes a change does."""
        self.clock.advance(MOMENT)
        await self.epochs.replace(ORG)

    def event(self, kind: Kind) -> None:
        """Announce a change through the watch alone, as for a change made with SQL."""
        self.caches.event(kind)
