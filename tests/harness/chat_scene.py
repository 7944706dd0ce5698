"""A chat use case with scripted collaborators, which record their calls and suspend wherever real ones would."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from harness.memory.observers import RecordingObserver
from harness.memory.responses import InMemoryResponses
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.memory.shared_directives import InMemorySharedDirectives
from ibex.adapters.memory.watch import InProcessWatch
from ibex.adapters.openai_api.chat_completions import ChatCompletions
from ibex.adapters.openai_api.chat_injection import Message
from ibex.adapters.openai_api.chat_request import ChatRequest
from ibex.adapters.openai_api.operations import OPERATION_NAMES
from ibex.adapters.openai_api.raw_json import Member
from ibex.domain.directives.cache import CachedDirectives, directive_policy
from ibex.domain.directives.model import Directive, InjectionMode, text_hash
from ibex.domain.errors import ErrorCode, IbexError
from ibex.domain.freshness.cache import Fetched, FreshCache
from ibex.domain.freshness.change_log import WatchServer
from ibex.domain.freshness.kinds import Kind, unknown_epoch
from ibex.domain.freshness.token_filter import TokenFilter
from ibex.domain.freshness.unknown_tokens import UnknownTokens
from ibex.domain.freshness.validity import Validity
from ibex.domain.freshness.watch import Watch
from ibex.domain.identity.auth_calls import AuthCalls
from ibex.domain.identity.cache import CachedAgents, CachedTokens, agent_policy, token_policy
from ibex.domain.identity.model import Agent, AgentStatus, PersonalAccessToken, Principal
from ibex.domain.identity.permissions import AGENT_DEFAULT
from ibex.domain.proxying.admission import Admission, Credentials
from ibex.domain.proxying.capacity import Capacity, Reservation
from ibex.domain.proxying.provider import (
    Dialect,
    ProviderBody,
    ProviderModel,
    ProviderRegistry,
    ProviderRequest,
    ProviderStream,
    StreamEvent,
)
from ibex.domain.proxying.proxy_request import IncomingRequest, ProxyRequest
from ibex.domain.proxying.refused_requests import RefusedRequests
from ibex.domain.record.journal import Batch, JournalUnavailableError, Sink
from ibex.domain.record.received_responses import ReceivedResponses
from ibex.domain.record.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from ibex.domain.clock import Clock
    from ibex.domain.directives.model import DirectiveLookup
    from ibex.domain.freshness.kinds import Epoch
    from ibex.domain.identity.model import AgentVerifier, TokenVerifier
    from ibex.domain.identity.rate_limits import Tally
    from ibex.domain.proxying.operation import Target
    from ibex.domain.record.exchange import Exchange

ORG = UUID(int=0x0A)
OTHER_ORG = UUID(int=0x0B)
AGENT = UUID(int=0x1A)
OTHER_AGENT = UUID(int=0x1B)
TOKEN = PersonalAccessToken.issue(UUID(int=0x2A), bytes(range(32)))
TOKEN_TEXT = TOKEN.reveal()
BEARER = f"Bearer {TOKEN_TEXT}"
REFUSAL_DELAY_S = 0.25
REQUEST_ID = UUID(int=0x3A)
CALL_TIMEOUT_S = 0.05
DIRECTIVE_TTL_S = 60
MOMENT = timedelta(microseconds=1)
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
BODY_BYTES = 100
EPOCH_SEED = 1
DIRECTIVE_TEXT = "Answer in rhyme."
DIRECTIVE = Directive(UUID(int=0x4A), 3, InjectionMode.SYSTEM_FIRST, DIRECTIVE_TEXT, text_hash(DIRECTIVE_TEXT))

_STATUSES = {
    ErrorCode.MISSING_TOKEN: 401,
    ErrorCode.INVALID_TOKEN: 401,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.CLIENT_CLOSED_REQUEST: 499,
    ErrorCode.PROVIDER_UNAVAILABLE: 503,
    ErrorCode.PROVIDER_TIMEOUT: 504,
}


def status_of(error: IbexError | None) -> int:
    """Return the status for an error, as a protocol's table would."""
    return 200 if error is None else _STATUSES.get(error.code, 500)


def _nothing() -> None:
    pass


async def pause() -> None:
    """Wait for a future, as for a socket. A cancellation may arrive before or after the future has its result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def come() -> None:
        if not future.done():
            future.set_result(None)

    loop.call_soon(come)
    await future


def chat_request(*, stream: bool = False, include_usage: bool | None = None, model: str = "gpt-4o") -> ChatRequest:
    """Return a request of one user message, as the HTTP adapter would have understood it."""
    raw_messages = b'[ {"role": "user", "content": "Hello \\u00e4"} ]'
    message = Message("user", b'{"role": "user", "content": "Hello \\u00e4"}')
    members = [Member("model", f'"{model}"'.encode()), Member("messages", raw_messages)]
    options: tuple[Member, ...] = ()
    if stream:
        members.append(Member("stream", b"true"))
    if include_usage is not None:
        value = b"true" if include_usage else b"false"
        options = (Member("include_usage", value),)
        members.append(Member("stream_options", b'{ "include_usage": ' + value + b" }"))
    body = b"{ " + b", ".join(b'"%s": %s' % (m.name.encode(), m.raw) for m in members) + b" }"
    return ChatRequest(
        model=model,
        is_streaming=stream,
        body=body,
        members=tuple(members),
        messages=(message,),
        raw_messages=raw_messages,
        stream_options=options,
    )


def outgoing_request(*, stream: bool = False, include_usage: bool | None = None) -> ProviderRequest:
    """Return ``chat_request`` in the form in which it is sent to a provider, without a directive."""
    asked = chat_request(stream=stream, include_usage=include_usage)
    return ProviderRequest(ChatCompletions.name, asked.path, asked.model, asked.is_streaming, asked.body)


def event(data: bytes) -> StreamEvent:
    """Return a stream event with one line of data."""
    return StreamEvent(b"data: " + data + b"\n\n", data)


async def _read(epochs: InMemoryEpochs | None, org_id: UUID) -> Epoch:
    return unknown_epoch(0) if epochs is None else await epochs.read_or_create(org_id)


@dataclass(slots=True)
class ScriptedTokens:
    """A ``TokenVerifier`` with one answer. Like auth, it reads the epoch first if ``epochs`` are given."""

    answer: Principal | Exception
    asked: list[UUID] = field(default_factory=list)
    on_asked: Callable[[], None] = _nothing
    epochs: InMemoryEpochs | None = None

    async def verify(self, token: PersonalAccessToken) -> Fetched[Principal]:
        """Return the answer."""
        self.asked.append(token.token_id)
        self.on_asked()
        answer = self.answer
        if isinstance(answer, Exception):
            await pause()
            raise answer
        epoch = await _read(self.epochs, answer.org_id)
        await pause()
        return Fetched(answer, epoch)


@dataclass(slots=True)
class ScriptedAgents:
    """An ``AgentVerifier`` with one answer. Like auth, it reads the epoch first if ``epochs`` are given."""

    answer: Agent | Exception
    asked: list[tuple[UUID, UUID]] = field(default_factory=list)
    on_asked: Callable[[], None] = _nothing
    epochs: InMemoryEpochs | None = None

    async def verify(self, org_id: UUID, agent_id: UUID) -> Fetched[Agent]:
        """Return the answer."""
        self.asked.append((org_id, agent_id))
        self.on_asked()
        answer = self.answer
        epoch = await _read(self.epochs, org_id)
        await pause()
        if isinstance(answer, Exception):
            raise answer
        return Fetched(answer, epoch)


@dataclass(slots=True)
class WaitingRateLimiter:
    """The in-memory limiter with a suspension. ``asked`` lists the organizations of epoch-only reads."""

    epochs: InMemoryEpochs
    counted: list[UUID] = field(default_factory=list)
    asked: list[UUID] = field(default_factory=list)
    on_asked: Callable[[], None] = _nothing
    limiter: InMemoryRateLimiter = field(init=False)

    def __post_init__(self) -> None:
        """Create the limiter."""
        self.limiter = InMemoryRateLimiter(self.epochs)

    async def count(self, org_id: UUID, now: datetime) -> Tally:
        """Count a request."""
        self.counted.append(org_id)
        self.on_asked()
        await pause()
        return await self.limiter.count(org_id, now)

    async def epoch(self, org_id: UUID) -> Epoch:
        """Read the epoch."""
        self.asked.append(org_id)
        await pause()
        return await self.limiter.epoch(org_id)


@dataclass(slots=True)
class ScriptedDirectives:
    """A ``DirectiveLookup`` with one answer."""

    answer: Directive | Exception | None
    asked: list[tuple[UUID, UUID]] = field(default_factory=list)
    on_asked: Callable[[], None] = _nothing

    async def active(self, org_id: UUID, agent_id: UUID) -> Directive | None:
        """Return the scripted answer."""
        self.asked.append((org_id, agent_id))
        self.on_asked()
        await pause()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def version(self, org_id: UUID, version_id: UUID) -> Directive | None:
        """Return the answer if it is this version; see ``DirectiveVersions``."""
        directive = await self.active(org_id, version_id)
        return directive if directive is not None and directive.version_id == version_id else None


@dataclass(slots=True)
class ScriptedStream:
    """A ``ProviderStream`` that yields its reads one by one. An exception among them is raised."""

    reads: Sequence[Sequence[StreamEvent] | Exception]
    attempts: int = 1
    provider_request_id: str | None = "req_stream"
    processing_ms: int | None = None
    closed: int = 0
    given: int = 0
    pauses_in_closing: int = 1
    close_failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[Sequence[StreamEvent]]:
        """Yield the reads."""
        for read in self.reads:
            await pause()
            if isinstance(read, Exception):
                raise read
            self.given += 1
            yield read

    def pass_to(self, take: Callable[[Sequence[StreamEvent]], bool] | None) -> None:
        """Do nothing; see ``ProviderStream``."""

    async def aclose(self) -> None:
        """Close the stream, which may suspend."""
        for _ in range(self.pauses_in_closing):
            await pause()
        self.closed += 1
        if self.close_failure is not None:
            raise self.close_failure


@dataclass(slots=True)
class ScriptedProvider:
    """A ``Provider`` with one answer."""

    answer: ProviderBody | ProviderStream | Exception
    dialect: Dialect = field(default_factory=Dialect)
    operations: frozenset[str] = OPERATION_NAMES
    name: str = "openai"
    models: tuple[str, ...] = ("gpt-*",)
    asked: list[ProviderRequest] = field(default_factory=list)
    on_asked: Callable[[], None] = _nothing
    cancelled: int = 0
    handed_out: int = 0
    listed: Sequence[ProviderModel] | Exception = (ProviderModel("gpt-4o", 1_715_367_049, "system"),)
    asked_to_list: int = 0

    async def list_models(self) -> Sequence[ProviderModel]:
        """Return the scripted list."""
        self.asked_to_list += 1
        await pause()
        if isinstance(self.listed, Exception):
            raise self.listed
        return self.listed

    async def complete(self, request: ProviderRequest) -> ProviderBody | ProviderStream:
        """Return the scripted answer."""
        self.asked.append(request)
        self.on_asked()
        try:
            await pause()
            await pause()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        self.handed_out += 1
        return self.answer


@dataclass(slots=True)
class ScriptedJournal:
    """A ``Journal`` that suspends and then keeps appended exchanges in a list, or fails."""

    failure: JournalUnavailableError | None = None
    kept: list[Exchange] = field(default_factory=list)
    begun: list[Exchange] = field(default_factory=list)
    left: list[Exchange] = field(default_factory=list)
    appending: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, exchange: Exchange) -> None:
        """Record that the exchange began."""
        self.begun.append(exchange)

    def unfinished(self) -> Sequence[Exchange]:
        """Return the exchanges that a previous process left unfinished."""
        return self.left

    async def dead_letter(self, sink: Sink, exchange: Exchange, reason: str) -> None:
        """Not called in this scene."""
        raise NotImplementedError

    def append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        """Append an exchange."""
        task = asyncio.create_task(self._append(exchange, done))
        self.appending.add(task)
        task.add_done_callback(self.appending.discard)

    async def _append(self, exchange: Exchange, done: Callable[[JournalUnavailableError | None], None]) -> None:
        await pause()
        await pause()
        if self.failure is None:
            self.kept.append(exchange)
        done(self.failure)

    async def next_batch(self, sink: Sink, limit: int) -> Batch | None:
        """Return nothing: nothing is delivered in this scene."""
        raise NotImplementedError

    async def acknowledge(self, sink: Sink, batch: Batch) -> None:
        """Not called in this scene."""
        raise NotImplementedError

    async def wait_for_more(self, sink: Sink, timeout_s: float) -> None:
        """Not called in this scene."""
        raise NotImplementedError

    def depth(self, sink: Sink) -> int:
        """Not called in this scene."""
        raise NotImplementedError


@dataclass(slots=True)
class BodyReader:
    """The body reader of a call."""

    answer: ChatRequest | Exception
    reads: int = 0
    on_asked: Callable[[], None] = _nothing

    async def __call__(self, _body: bytes) -> ChatRequest:
        """Read the body, and parse it."""
        self.reads += 1
        self.on_asked()
        await pause()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class ScriptedOperation(ChatCompletions):
    """Chat completions that read and parse requests as the scene specifies."""

    def __init__(self, body: BodyReader) -> None:
        self._body = body

    async def parse(self, body: bytes, target: Target) -> ChatRequest:  # noqa: ARG002 - all is in the body
        """Return the request of the scene; see ``Operation``."""
        return await self._body(body)


def without_filter(clock: Clock) -> UnknownTokens:
    """Return the state of a worker whose Bloom filter is incomplete, so that it refuses no token."""
    identity = InMemoryIdentity()
    watch = Watch(InProcessWatch(WatchServer(identity.change_log)), Validity(), clock, lambda: 0.0)
    return UnknownTokens(TokenFilter(identity, bytes(16)), watch, clock)


@dataclass(slots=True)
class Caches:
    """Empty caches as a worker has them, the events that they reported, and the confirmed time."""

    clock: ManualClock
    heard: list[tuple[str, Kind]] = field(default_factory=list)
    shared_directives: InMemorySharedDirectives = field(default_factory=InMemorySharedDirectives)
    validity: Validity = field(default_factory=Validity)
    calls: AuthCalls = field(init=False)

    def __post_init__(self) -> None:
        """Create the calls to auth, which all caches share."""
        self.calls = AuthCalls(self.clock, timeout_s=CALL_TIMEOUT_S)

    def confirm(self) -> None:
        """Confirm the present time: receive a pong whose ping is sent now."""
        self.validity.confirm(self.clock.monotonic_ns())

    def event(self, kind: Kind, org_id: UUID = ORG) -> None:
        """Receive an event and advance the clock, so that only entries fetched after the event are valid."""
        self.validity.invalidate(kind, org_id, self.clock.monotonic_ns())
        self.clock.advance(MOMENT)

    def tokens(self, source: TokenVerifier, unknown: UnknownTokens | None = None) -> CachedTokens:
        """Return a cache of tokens over a source."""
        policy = token_policy(stale_if_error_s=300)
        cache: FreshCache[bytes, Principal] = FreshCache(Kind.TOKENS, {}, policy, self.validity, self.clock, self)
        return CachedTokens(source, unknown or without_filter(self.clock), cache, self.calls)

    def agents(self, source: AgentVerifier) -> CachedAgents:
        """Return a cache of agents over a source."""
        policy = agent_policy(stale_if_error_s=300)
        cache = FreshCache(Kind.AGENTS, {}, policy, self.validity, self.clock, self, absent={})
        return CachedAgents(source, cache, self.calls, self.clock)

    def directives(self, source: DirectiveLookup) -> CachedDirectives:
        """Return a cache of directives over a source."""
        policy = directive_policy(DIRECTIVE_TTL_S, last_known_s=300)
        cache = FreshCache(Kind.DIRECTIVES, {}, policy, self.validity, self.clock, self)
        return CachedDirectives(
            source, self.shared_directives, cache, self.validity, self.clock, shared_ttl_s=DIRECTIVE_TTL_S
        )

    def hit(self, kind: Kind) -> None:
        """Record a hit; see ``CacheObserver``."""
        self.heard.append(("hit", kind))

    def missed(self, kind: Kind) -> None:
        """Record a miss; see ``CacheObserver``."""
        self.heard.append(("missed", kind))

    def refetched(self, kind: Kind) -> None:
        """Record a refetch; see ``CacheObserver``."""
        self.heard.append(("refetched", kind))

    def served_stale(self, kind: Kind) -> None:
        """Record a stale entry that was served; see ``CacheObserver``."""
        self.heard.append(("stale", kind))


DISK_FULL = JournalUnavailableError("the disk is full")


def principal(**changes: Any) -> Principal:
    """Return the principal of a live token that may chat and is not bound to an agent."""
    values: dict[str, Any] = {"org_id": ORG, "token_id": TOKEN.token_id, "permissions": AGENT_DEFAULT}
    return Principal(**(values | changes))


class ChatScene:
    """All collaborators of a chat call. A test changes their answers before it makes the call."""

    def __init__(self, answer: ProviderBody | ProviderStream | Exception, request: ChatRequest) -> None:
        self.clock = ManualClock()
        self.ids = SequentialIds()
        self.epochs = InMemoryEpochs(self.clock, SequentialIds(EPOCH_SEED))
        self.tokens = ScriptedTokens(principal(), epochs=self.epochs)
        self.agents = ScriptedAgents(Agent(AGENT, ORG, AgentStatus.ACTIVE), epochs=self.epochs)
        self.caches = Caches(self.clock)
        self.rate_limiter = WaitingRateLimiter(self.epochs)
        self.directives = ScriptedDirectives(DIRECTIVE)
        self.provider = ScriptedProvider(answer)
        self.journal = ScriptedJournal()
        self.observer = RecordingObserver()
        self.body = BodyReader(request)
        self.record = InMemoryResponses()
        self.shared_responses = InMemoryResponses()
        self.responses = ReceivedResponses(self.record, self.shared_responses)
        self.recorder = Recorder(self.journal, [self.observer], self.ids, status_of, self.responses.remember)
        self.credentials = Credentials(TOKEN_TEXT, str(AGENT))
        self.session_handle: str | None = "conversation-1"
        self.ends_session = False
        self.capacity = Capacity(slots=100, body_bytes=1 << 28, max_authenticating=100)
        self.refusals = RefusedRequests(default_rpm=600)
        self.delays: list[float] = []
        """The delays of refusals, in seconds. No test waits for them."""

    async def _delay(self, seconds: float) -> None:
        self.delays.append(seconds)

    def admission(self) -> Admission:
        """Return the admission use case."""
        tokens, agents = self.caches.tokens(self.tokens), self.caches.agents(self.agents)
        return Admission(
            tokens,
            agents,
            self.rate_limiter,
            self.refusals,
            default_rpm=600,
            refusal_delay_s=REFUSAL_DELAY_S,
            sleep=self._delay,
        )

    def use_case(self) -> ProxyRequest:
        """Return the chat use case over the collaborators in their present state."""
        return ProxyRequest(
            admit=self.admission(),
            directives=self.caches.directives(self.directives),
            directive_versions=self.directives,
            responses=self.responses,
            providers=ProviderRegistry([self.provider]),
            recorder=self.recorder,
            clock=self.clock,
            ids=self.ids,
        )

    def call(self) -> IncomingRequest:
        """Return the call that the scene's client makes."""
        return IncomingRequest(
            operation=ScriptedOperation(self.body),
            request_id=REQUEST_ID,
            trace_id=TRACE_ID,
            credentials=self.credentials,
            read_body=partial(self._read, reservation := Reservation(self.capacity)),
            reservation=reservation,
            session_handle=self.session_handle,
            ends_session=self.ends_session,
        )

    async def _read(self, reservation: Reservation) -> bytes:
        reservation.reserve_body(BODY_BYTES)
        return b""

    @property
    def exchange(self) -> Exchange:
        """The one exchange that was recorded. Fails if there is none or more than one."""
        (settled,) = self.observer.exchanges
        return settled.exchange

    @property
    def journaled(self) -> bool:
        """Whether the one recorded exchange is in the journal. Asserts that the observers reported the same."""
        (settled,) = self.observer.exchanges
        assert self.journal.kept == ([settled.exchange] if settled.journaled else [])
        return settled.journaled
