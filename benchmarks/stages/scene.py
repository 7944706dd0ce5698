"""What the stages are measured with: caches as a worker has them, warm, on the machine's clock and with its metrics."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cachetools import LRUCache

from harness.chat_scene import (
    AGENT,
    BEARER,
    DIRECTIVE,
    ORG,
    TOKEN,
    ScriptedAgents,
    ScriptedDirectives,
    ScriptedTokens,
    principal,
)
from harness.journal_entries import FullJournal
from ibex.adapters.memory.known_tokens import NoFilter
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.memory.shared_directives import NoSharedDirectives
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.telemetry.caches import CacheTelemetry
from ibex.adapters.telemetry.metrics import Metrics
from ibex.domain.admit_caller import AdmitCaller, Credentials
from ibex.domain.auth_calls import AuthCalls
from ibex.domain.cached_identity import (
    CachedAgents,
    CachedDirectives,
    CachedTokens,
    agent_lifetimes,
    directive_lifetimes,
    token_lifetimes,
)
from ibex.domain.exchange import Caller, SessionRef, Stage
from ibex.domain.fresh_cache import FreshCache
from ibex.domain.freshness import Kind, News
from ibex.domain.identity import Agent, AgentStatus
from ibex.domain.open_exchange import OpenExchange
from ibex.domain.rate_limits import decide
from ibex.domain.refused_requests import RefusedRequests

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
LRU_SIZE: Final = 5_000
REQUEST_BYTES: Final = 1 << 20
_STALE_S: Final = 300


def driven(begin: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], T]:
    """Return a function that runs a coroutine to its end by hand, without an event loop.

    What is served from memory never waits, so this is all that it costs a worker's task. It raises ``RuntimeError``
    where the coroutine waits after all: what is measured would not be what is said.
    """

    def drive() -> T:
        coroutine = begin()
        try:
            coroutine.send(None)
        except StopIteration as ended:
            value: T = ended.value
            return value
        coroutine.close()
        raise RuntimeError("this stage waits for something and cannot be driven by hand")

    return drive


@dataclass(frozen=True, slots=True)
class Warm:
    """Caches that hold the scene's token, agent and directive, and the news that confirm them."""

    clock: SystemClock
    tokens: CachedTokens
    agents: CachedAgents
    directives: CachedDirectives
    news: News
    admit: AdmitCaller
    credentials: Credentials


def warm_caches() -> Warm:
    """Return caches as ``entrypoints.containers`` makes them, each with its one entry fetched."""
    clock = SystemClock()
    heard = CacheTelemetry(Metrics(clock, FullJournal()).registry)
    news = News(clock.monotonic_ns(), "lease", dict.fromkeys(Kind, "generation"))

    def cache(kind: Kind, lifetimes: Any) -> FreshCache[Any, Any]:
        return FreshCache(kind, LRUCache(LRU_SIZE), lifetimes, clock, heard)

    calls = AuthCalls(clock, timeout_s=0.05)
    tokens = CachedTokens(
        ScriptedTokens(principal()),
        NoFilter(),
        cache(Kind.TOKENS, token_lifetimes(clock, while_source_is_down_s=_STALE_S)),
        calls,
    )
    agents = CachedAgents(
        ScriptedAgents(Agent(AGENT, ORG, AgentStatus.ACTIVE)),
        cache(Kind.AGENTS, agent_lifetimes(while_source_is_down_s=_STALE_S)),
        calls,
    )
    directives = CachedDirectives(
        ScriptedDirectives(DIRECTIVE),
        NoSharedDirectives(),
        cache(Kind.DIRECTIVES, directive_lifetimes(60, last_known_s=_STALE_S)),
    )
    admit = AdmitCaller(
        tokens, agents, InMemoryRateLimiter(lambda _: news), RefusedRequests(default_rpm=0), default_rpm=0
    )
    scene = Warm(clock, tokens, agents, directives, news, admit, Credentials(BEARER, str(AGENT)))
    asyncio.run(_fetch(scene))
    return scene


async def _fetch(scene: Warm) -> None:
    for _ in range(2):  # the first brings the organization's news only after its fetch, and proves nothing for later
        await scene.tokens.confirm(await scene.tokens.recall(TOKEN.reveal()), scene.news)
        await scene.agents.confirm(await scene.agents.recall(ORG, AGENT), scene.news)
        await scene.directives.active(ORG, AGENT, scene.news)


def body_of(messages: int, *, size: int | None = None) -> bytes:
    """Return a request's body with so many messages, of some 100 bytes each, or of ``size`` bytes altogether.

    It is written without spaces, as OpenAI's SDKs write theirs.
    """
    roles = ("system", "user", "assistant", "user")
    each = 80 if size is None else size // messages
    text = ("What is an ibex? " * (each // 17 + 1))[:each]
    talk = [{"role": roles[number % 4], "content": text} for number in range(messages)]
    request = {"model": "gpt-4o", "messages": talk, "temperature": 0.2, "max_tokens": 256, "user": "u-1"}
    return json.dumps(request, separators=(",", ":")).encode()


BODIES: Final = {"small": body_of(2), "10_messages": body_of(10), "1_MB": body_of(10, size=REQUEST_BYTES)}


def notes_of_a_request(clock: SystemClock) -> OpenExchange:
    """Return the notebook of a request that went through every stage, to be settled."""
    notes = OpenExchange.begin(clock, TOKEN.token_id, "0af7651916cd43dd8448eb211c80319c")
    notes.caller = Caller(ORG, TOKEN.token_id, AGENT)
    notes.session = SessionRef(TOKEN.token_id, "conversation-1")
    notes.stage_ns = {
        Stage.AUTHENTICATE: 12_345,
        Stage.RATE_LIMIT: 456_789,
        Stage.DIRECTIVE: 4_567,
        Stage.INJECT: 9_876,
    }
    notes.rate_limit = decide(count=17, limit=600, now=clock.now())
    notes.directive = DIRECTIVE
    notes.model, notes.messages_hash = "gpt-4o", "a1" * 32
    notes.provider_asked("openai")
    notes.provider_answered(1, "req_0123456789abcdef")
    notes.provider_spoke()
    notes.provider_ended()
    return notes
