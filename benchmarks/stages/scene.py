"""The scene of the stages: warm caches as in a worker, with the machine's clock and with metrics."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cachetools import LRUCache

from harness.chat_scene import (
    AGENT,
    DIRECTIVE,
    ORG,
    TOKEN,
    TOKEN_TEXT,
    ScriptedAgents,
    ScriptedDirectives,
    ScriptedTokens,
    principal,
    without_filter,
)
from harness.journal_entries import FullJournal
from harness.memory.epochs import InMemoryEpochs
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.memory.shared_directives import NoSharedDirectives
from ibex.adapters.system.clock import SystemClock
from ibex.adapters.system.ids import SystemIds
from ibex.adapters.telemetry.caches import CacheTelemetry
from ibex.adapters.telemetry.metrics import Metrics
from ibex.domain.directives.cache import CachedDirectives, directive_policy
from ibex.domain.freshness.cache import FreshCache
from ibex.domain.freshness.kinds import NS, Epoch, Kind
from ibex.domain.freshness.validity import Validity
from ibex.domain.identity.auth_calls import AuthCalls
from ibex.domain.identity.cache import CachedAgents, CachedTokens, agent_policy, token_policy
from ibex.domain.identity.model import Agent, AgentStatus
from ibex.domain.identity.rate_limits import decide
from ibex.domain.proxying.admission import Admission, Credentials
from ibex.domain.proxying.refused_requests import RefusedRequests
from ibex.domain.record.exchange import Caller, SessionRef, Stage
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
LRU_SIZE: Final = 5_000
REQUEST_BYTES: Final = 1 << 20
_STALE_S: Final = 300
_CONFIRMED_S: Final = 3_600


def driven(begin: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], T]:
    """Return a function that drives a coroutine to its end, without an event loop.

    A coroutine that is served from memory never waits, so this is its whole cost for a worker's task. The function
    raises ``RuntimeError`` if the coroutine waits, because the measurement would be wrong.
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
    """Caches that hold the scene's token, agent and directive, and an epoch reading that validates them."""

    clock: SystemClock
    tokens: CachedTokens
    agents: CachedAgents
    directives: CachedDirectives
    epoch: Epoch
    admit: Admission
    credentials: Credentials


def warm_caches() -> Warm:
    """Return caches as ``entrypoints.containers`` creates them, each with its one entry fetched."""
    clock = SystemClock()
    heard = CacheTelemetry(Metrics(clock, FullJournal()).registry)
    epochs = InMemoryEpochs(clock, SystemIds())
    epoch = asyncio.run(epochs.read_or_create(ORG))
    validity = Validity()
    validity.confirm(clock.monotonic_ns() + _CONFIRMED_S * NS)  # by pongs, for which no stage has to wait

    def cache(kind: Kind, policy: Any) -> FreshCache[Any, Any]:
        return FreshCache(kind, LRUCache(LRU_SIZE), policy, validity, clock, heard)

    calls = AuthCalls(clock, timeout_s=0.05)
    tokens = CachedTokens(
        ScriptedTokens(principal(), epochs=epochs),
        without_filter(clock),
        cache(Kind.TOKENS, token_policy(stale_if_error_s=_STALE_S)),
        calls,
    )
    agents = CachedAgents(
        ScriptedAgents(Agent(AGENT, ORG, AgentStatus.ACTIVE), epochs=epochs),
        cache(Kind.AGENTS, agent_policy(stale_if_error_s=_STALE_S)),
        calls,
        clock,
    )
    directives = CachedDirectives(
        ScriptedDirectives(DIRECTIVE),
        NoSharedDirectives(),
        cache(Kind.DIRECTIVES, directive_policy(60, last_known_s=_STALE_S)),
        validity,
        clock,
        shared_ttl_s=60,
    )
    admit = Admission(tokens, agents, InMemoryRateLimiter(epochs), RefusedRequests(default_rpm=0), default_rpm=0)
    scene = Warm(clock, tokens, agents, directives, epoch, admit, Credentials(TOKEN_TEXT, str(AGENT)))
    asyncio.run(_fetch(scene))
    return scene


async def _fetch(scene: Warm) -> None:
    await scene.tokens.look_up(TOKEN.reveal())
    await scene.agents.look_up(ORG, AGENT)
    await scene.directives.look_up(ORG, AGENT, scene.epoch)


def body_of(messages: int, *, size: int | None = None) -> bytes:
    """Return a request body with this many messages, of some 100 bytes each, or of ``size`` bytes altogether.

    It has no spaces, as in OpenAI's SDKs.
    """
    roles = ("system", "user", "assistant", "user")
    each = 80 if size is None else size // messages
    text = ("What is an ibex? " * (each // 17 + 1))[:each]
    talk = [{"role": roles[number % 4], "content": text} for number in range(messages)]
    request = {"model": "gpt-4o", "messages": talk, "temperature": 0.2, "max_tokens": 256, "user": "u-1"}
    return json.dumps(request, separators=(",", ":")).encode()


BODIES: Final = {"small": body_of(2), "10_messages": body_of(10), "1_MB": body_of(10, size=REQUEST_BYTES)}


def exchange_of_a_request(clock: SystemClock) -> InFlightExchange:
    """Return the in-flight exchange of a request that went through every stage, ready to be recorded."""
    in_flight = InFlightExchange.begin(clock, TOKEN.token_id, "0af7651916cd43dd8448eb211c80319c")
    in_flight.caller = Caller(ORG, TOKEN.token_id, AGENT)
    in_flight.session = SessionRef(TOKEN.token_id, "conversation-1")
    in_flight.stage_ns = {
        Stage.AUTHENTICATE: 12_345,
        Stage.RATE_LIMIT: 456_789,
        Stage.DIRECTIVE: 4_567,
        Stage.INJECT: 9_876,
    }
    in_flight.rate_limit = decide(count=17, limit=600, now=clock.now())
    in_flight.directive = DIRECTIVE
    in_flight.model, in_flight.messages_hash = "gpt-4o", "a1" * 32
    in_flight.provider_asked("openai")
    in_flight.provider_answered(1, "req_0123456789abcdef")
    in_flight.provider_sent_bytes()
    in_flight.provider_ended()
    return in_flight
