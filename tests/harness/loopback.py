"""A whole proxy between a raw client and a scripted provider, all on loopback, for faults on either side.

The HTTP server, its event loop, the object graph, the HTTP client and the journal are real. Identity and the sinks are
in memory: ``harness.record_stack`` covers their faults.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import uvloop
from dependency_injector import providers

from harness.http_scene import served
from harness.memory.directives import InMemoryDirectives
from harness.memory.identity import InMemoryIdentity
from harness.memory.sessions import InMemorySessions
from harness.memory.traces import InMemoryTraces
from harness.openai_wire import completion, completion_body, stream_events, text_deltas, text_stream
from harness.raw_http import WAIT_S, RawClient, Seen
from ibex.adapters.http_client.pool import PoolLimits
from ibex.adapters.http_client.transport import Http1Transport
from ibex.adapters.http_server.connections import ConnectionLimits
from ibex.entrypoints.containers import Management, application_of
from ibex.entrypoints.environments import EmbeddedAdapters
from ibex.entrypoints.first_installation import InstallationNames, bootstrap
from ibex.entrypoints.lifespan import running
from ibex.entrypoints.proxy_server import connection_limits
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from harness.openai import ScriptedOpenAI
    from harness.openai_wire import Script
    from ibex.adapters.http_client.happy_eyeballs import Resolver
    from ibex.adapters.http_server.client_connection import Limits
    from ibex.domain.record.exchange import Exchange
    from ibex.domain.record.traces import Trace
    from ibex.entrypoints.first_installation import Installation

CHAT = "/v1/chat/completions"
DIRECTIVE = "Be brief."
REQUEST: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "canary-prompt"}]}
KEY = "sk-canary-key"
PEPPERS = "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
POLL_S = 0.005


@dataclass(slots=True)
class ShiftedClock:
    """The machine's clock with an offset, for a clock that is set or for time that passes.

    ``by`` moves the wall clock alone, and ``passed`` the monotonic clock alone.
    """

    by: timedelta = timedelta()
    held_at: datetime | None = None
    passed: timedelta = timedelta()

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        return (self.held_at or datetime.now(UTC)) + self.by

    def monotonic_ns(self) -> int:
        """Return the monotonic clock's nanoseconds."""
        return time.monotonic_ns() + self.passed // timedelta(microseconds=1) * 1_000


@dataclass(slots=True)
class _Heard:
    """An ``ExchangeObserver`` of the proxy that records every notification."""

    exchanges: list[tuple[Exchange, bool]] = field(default_factory=list)
    aggregates: list[Exchange] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def recorded(self, exchange: Exchange, *, journaled: bool) -> None:
        """Record an exchange."""
        with self.news:
            self.exchanges.append((exchange, journaled))
            self.news.notify_all()

    def aggregated(self, exchange: Exchange, *, journaled: bool) -> None:
        """Record an aggregate of refusals."""
        assert journaled
        with self.news:
            self.aggregates.append(exchange)
            self.news.notify_all()


class Loopback:
    """A running proxy at ``address``, with ``provider`` as its upstream. Call its methods from the test's thread."""

    def __init__(
        self,
        provider: ScriptedOpenAI,
        journal: Path,
        environ: dict[str, str],
        limits: Limits | None = None,
        resolve: Resolver | None = None,
    ) -> None:
        self.provider = provider
        self._limits = limits
        self.address = ""
        self.colleague = ""
        """The id of another agent of the organization, which has no directive; ``admin_token`` may name it."""
        self.clock = ShiftedClock()
        own = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": provider.base_url,
            "OPENAI_RETRY_BASE_DELAY": "0.001",
            "IBEX_TOKEN_PEPPERS": PEPPERS,
            "IBEX_JOURNAL_DIR": str(journal),
            "IBEX_RATE_LIMIT_DEFAULT_RPM": "0",
        }
        self._settings = Settings.load({**own, **environ})
        self._slow_s = float(environ.get("slow_s", ConnectionLimits().slow_s))
        self._heard = _Heard()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stop = asyncio.Event()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._made: Installation
        self._neighbour: Installation
        self._adapters: Any = self._in_memory()
        if resolve is not None:
            transport = providers.Singleton(Http1Transport, PoolLimits(10, 10), resolve=resolve)
            self._adapters.transport.override(transport)

    @classmethod
    @contextmanager
    def running(
        cls,
        provider: ScriptedOpenAI,
        journal: Path,
        limits: Limits | None = None,
        resolve: Resolver | None = None,
        /,
        **environ: str,
    ) -> Iterator[Loopback]:
        """Run a proxy with these settings, and with limits and a resolver for which there are no settings.

        At the end, every observed exchange must be on record exactly once. ``slow_s`` among the settings is how long a
        client may read too slowly; it is not a setting of IBEX.
        """
        proxy = cls(provider, journal, environ, limits, resolve)
        proxy._thread.start()
        serving = asyncio.run_coroutine_threadsafe(proxy._serve(), proxy._loop)
        try:
            asyncio.run_coroutine_threadsafe(proxy._wait_for_start(), proxy._loop).result(WAIT_S)
            yield proxy
        finally:
            proxy._loop.call_soon_threadsafe(proxy._stop.set)
            serving.result(WAIT_S)
            proxy._loop.call_soon_threadsafe(proxy._loop.stop)
            proxy._thread.join(WAIT_S)
            proxy._loop.close()
        asyncio.run(proxy._assert_all_on_record())

    def _in_memory(self) -> Any:
        adapters = EmbeddedAdapters()
        adapters.clock.override(providers.Object(self.clock))
        adapters.identity.override(providers.Singleton(InMemoryIdentity))
        log = adapters.identity.provided.change_log
        directives = providers.Singleton(InMemoryDirectives, adapters.identity, adapters.clock, log)
        adapters.directives.override(directives)
        adapters.sessions.override(providers.Singleton(InMemorySessions, adapters.clock))
        adapters.traces.override(providers.Singleton(InMemoryTraces, adapters.clock))
        adapters.resources.override(providers.List(adapters.journal))
        adapters.checks.override(providers.List())
        adapters.change_log.override(log)
        adapters.live_tokens.override(adapters.identity)
        adapters.background.override(providers.List(adapters.watch_server, adapters.loop_lag))  # never prune
        return adapters

    async def _serve(self) -> None:
        application = application_of(self._adapters, self._settings, observers=[self._heard])
        if self._limits is not None:
            application.limits.override(providers.Object(self._limits))
        app = application.app()
        async with running(application):
            management = Management(adapters=self._adapters)
            names = InstallationNames("acme", "a@acme.example", "one", DIRECTIVE)
            self._made = await bootstrap(management.identity(), management.directives(), names)
            colleague = await management.identity().create_agent(self._made.organization.id, "two")
            self.colleague = str(colleague.id)
            names = InstallationNames("neighbour", "n@neighbour.example", "one", DIRECTIVE)
            self._neighbour = await bootstrap(management.identity(), management.directives(), names)
            async with served(app, replace(connection_limits(self._settings), slow_s=self._slow_s)) as (
                self.address,
                _,
            ):
                self._started.set_result(None)
                await self._stop.wait()

    async def _wait_for_start(self) -> None:
        await self._started

    async def _assert_all_on_record(self) -> None:
        traces = [
            trace
            for installation in (self._made, self._neighbour)
            for trace in await self._assert_on_record(installation.organization.id)
        ]
        assert sorted(t.emitter_seq for t in traces) == list(range(1, len(traces) + 1))

    async def _assert_on_record(self, org_id: UUID) -> Sequence[Trace]:
        """Return the organization's traces."""
        settled = [e for e, _ in self._heard.exchanges if e.caller is not None and e.caller.org_id == org_id]
        sessions = self._adapters.sessions()
        own = await sessions.sessions(org_id, len(settled))
        turns = [turn.request_id for session in own for turn in await sessions.turns(org_id, session.id)]
        traces: Sequence[Trace] = await self._adapters.traces().tail(org_id, 2 * len(settled) + 1)
        assert Counter(turns) == Counter(e.request_id for e in settled if e.reached_provider and e.session)
        by_themselves = [e for e in settled if e.emitter_seq]
        excess = Counter(e.error_code for e in settled if not e.emitter_seq)
        together = {e.emitter_seq for e in self._heard.aggregates}
        assert Counter(t.request_id for t in traces if t.emitter_seq not in together) == Counter(
            e.request_id for e in by_themselves
        )
        repeated: Counter[str] = Counter()
        for trace in traces:
            repeated[trace.error_code] += trace.repeated if trace.emitter_seq in together else 0
        assert +repeated == excess
        return traces

    @property
    def token(self) -> str:
        """The token of an agent."""
        return self._made.agent_token.reveal()

    @property
    def admin_token(self) -> str:
        """A token that is not bound to an agent."""
        return self._made.admin_token.reveal()

    @property
    def neighbour_token(self) -> str:
        """The token of an agent of another organization."""
        return self._neighbour.agent_token.reveal()

    # Actions of a client

    def head(
        self,
        *more: str,
        path: str = CHAT,
        request_id: UUID | None = None,
        token: str | None = None,
        method: str = "POST",
    ) -> bytes:
        """Return the head of a chat request with additional headers; ``token`` replaces the agent's own."""
        lines = [
            f"{method} {path} HTTP/1.1",
            "host: ibex.test",
            f"authorization: Bearer {token or self.token}",
            "content-type: application/json",
            f"x-request-id: {request_id or uuid4()}",
            *more,
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def chat(
        self,
        body: bytes | None = None,
        *more: str,
        stream: bool = False,
        request_id: UUID | None = None,
        token: str | None = None,
    ) -> bytes:
        """Return a complete chat request, by default with a plain body."""
        body = json.dumps(REQUEST | ({"stream": True} if stream else {})).encode() if body is None else body
        return self.head(f"content-length: {len(body)}", *more, request_id=request_id, token=token) + body

    def connect(self) -> RawClient:
        """Connect a client, which the test closes."""
        return RawClient(self.address)

    @contextmanager
    def client(self, receive_buffer: int | None = None) -> Iterator[RawClient]:
        """Connect a client."""
        with RawClient.connected(self.address, receive_buffer) as client:
            yield client

    def ask(self, *scripts: Script, body: bytes | None = None, stream: bool = False, token: str | None = None) -> Seen:
        """Send one chat request, answered by these scripts, and return the client's response."""
        self.provider.put(*scripts)
        with self.client() as client:
            client.send(self.chat(body, stream=stream, token=token))
            return client.response()

    # Records and metrics

    def record(self, request_id: UUID | str) -> Exchange:
        """Wait until the exchange of a request is in the journal, and return it."""
        wanted = UUID(str(request_id))

        def found() -> list[tuple[Exchange, bool]]:
            return [heard for heard in self._heard.exchanges if heard[0].request_id == wanted]

        with self._heard.news:
            assert self._heard.news.wait_for(found, WAIT_S), "nothing was recorded"
            ((exchange, journaled),) = found()
        assert journaled
        assert "canary" not in repr(exchange)
        return exchange

    def recorded_nothing_of(self, request_id: str) -> bool:
        """Tell whether a request has no exchange, which is so if its organization is unknown."""
        return all(str(exchange.request_id) != request_id for exchange, _ in self._heard.exchanges)

    def traces(self) -> list[Trace]:
        """Return the delivered traces, oldest first."""
        org_id = self._made.organization.id
        found = self._adapters.traces().tail(org_id, 1_000_000)
        traces = asyncio.run_coroutine_threadsafe(found, self._loop).result(WAIT_S)
        return sorted(traces, key=lambda trace: trace.emitter_seq)

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Poll until a condition without a notification is true."""
        deadline = time.monotonic() + WAIT_S
        while not happened():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(POLL_S)

    def let_record_fail(self, *, is_unreadable: bool = True) -> None:
        """Make lookups of recorded responses fail, or succeed again."""
        self._adapters.sessions().is_unreadable = is_unreadable

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return str(self._adapters.metrics().render()[0].decode())

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric with these labels; 0 if it has no sample yet."""
        lines = self.metrics().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"{name}{{") and all(one in line for one in wanted)
        )

    def assert_healthy(self) -> None:
        """Assert that a buffered and a streamed request succeed at once and are recorded, and none stays open."""
        self.provider.scripts.clear()
        body = self.ask(completion("healthy"))
        stream = self.ask(text_stream("healthy"), stream=True)
        expected = b"".join(event for event in stream_events(text_deltas("healthy"), usage=False))
        assert (body.status, body.body) == (200, completion_body("healthy"))
        assert (stream.status, stream.body) == (200, expected)
        for seen in (body, stream):
            exchange = self.record(seen.request_id)
            assert (exchange.status, exchange.is_complete, exchange.attempts) == (200, True, 1)
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until no connection to the provider has an open request."""
        transport = self._adapters.transport()
        assert isinstance(transport, Http1Transport)
        deadline = time.monotonic() + WAIT_S
        while asyncio.run_coroutine_threadsafe(_open_requests(transport), self._loop).result(WAIT_S):
            assert time.monotonic() < deadline, "a connection to the provider was left open"
            time.sleep(POLL_S)  # there is no notification

    def block(self, seconds: float) -> threading.Event:
        """Block the proxy's event loop for some seconds; return an event that is set when the block begins."""
        began = threading.Event()

        def stand_still() -> None:
            began.set()
            time.sleep(seconds)  # the simulated fault

        self._loop.call_soon_threadsafe(stand_still)
        return began


async def _open_requests(transport: Http1Transport) -> int:
    return transport.open_requests


def resident_kib(pid: int | None = None) -> int:
    """Return the resident memory of a process, by default this one, in KiB."""
    with open(f"/proc/{pid or os.getpid()}/status", encoding="ascii") as status:  # noqa: PTH123 - no path of ours
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
