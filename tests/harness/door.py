"""Where callers are admitted, with scripted neighbours, caches and a board."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from harness.chat_scene import (
    AGENT,
    BEARER,
    ORG,
    Caches,
    ScriptedAgents,
    ScriptedTokens,
    WaitingRateLimiter,
    principal,
)
from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.ids import SequentialIds
from ibex.domain.admit_caller import AdmitCaller, Credentials
from ibex.domain.identity import Agent, AgentStatus
from ibex.domain.known_tokens import FILTER_BITS
from ibex.domain.open_exchange import OpenExchange
from ibex.domain.refused_requests import RefusedRequests

if TYPE_CHECKING:
    from ibex.domain.exchange import Caller
    from ibex.domain.freshness import Kind


class Door:
    """The use case with its neighbours and the notes of one request."""

    def __init__(self) -> None:
        self.tokens = ScriptedTokens(principal())
        self.agents = ScriptedAgents(Agent(AGENT, ORG, AgentStatus.ACTIVE))
        self.clock = ManualClock()
        self.board = InMemoryBoard(self.clock, SequentialIds())
        self.rate_limiter = WaitingRateLimiter(self.board)
        self.caches = Caches(self.clock)
        self.notes = OpenExchange.begin(self.clock, UUID(int=1), "t" * 32)
        self.admit = AdmitCaller(
            self.caches.tokens(self.tokens),
            self.caches.agents(self.agents),
            self.rate_limiter,
            RefusedRequests(default_rpm=600),
            default_rpm=600,
        )

    async def knock(self, authorization: str | None = BEARER, agent_id: str | None = str(AGENT)) -> Caller | None:
        """Ask to be let in, and return who the notes say came."""
        await self.admit(Credentials(authorization, agent_id), self.notes)
        return self.notes.caller

    async def knock_twice(self) -> None:
        """Be let in until token and agent are remembered under a stamp, the board's lease being valid."""
        connection = await self.board.connection()
        await self.board.finish_filter(connection, await self.board.begin_filter(connection), bytes(FILTER_BITS // 8))
        await self.renew()
        await self.knock()
        await self.knock()
        for asked in (self.tokens.asked, self.agents.asked, self.rate_limiter.counted, self.rate_limiter.asked):
            asked.clear()

    async def renew(self) -> None:
        """Have a valid lease."""
        connection = await self.board.connection()
        assert await self.board.renew(connection, await self.board.begin_turn(connection) or "")

    async def announce(self, kind: Kind) -> None:
        """Say that something has changed."""
        await self.board.announce(await self.board.connection(), ORG, [kind])
