"""The notebook of one running request: filled in as the request goes, closed by ``settle_exchange``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ibex.domain.exchange import DirectiveReceipt, Stage, Timings

if TYPE_CHECKING:
    import asyncio
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.directives import Directive
    from ibex.domain.exchange import Caller, SessionRef
    from ibex.domain.rate_limits import RateLimitDecision


class _Timed:
    """A class, since a generator as a context manager costs three times as much, five times a request."""

    __slots__ = ("_notes", "_stage", "_started_ns")

    def __init__(self, notes: OpenExchange, stage: Stage) -> None:
        self._notes = notes
        self._stage = stage

    def __enter__(self) -> None:
        self._started_ns = self._notes.clock.monotonic_ns()

    def __exit__(self, *_raised: object) -> None:
        took_ns = self._notes.clock.monotonic_ns() - self._started_ns
        self._notes.stage_ns[self._stage] = self._notes.stage_ns.get(self._stage, 0) + took_ns


@dataclass(slots=True)
class OpenExchange:
    """What is known so far. What the client is told of it (headers) is read from here as well."""

    clock: Clock
    request_id: UUID
    trace_id: str
    requested_at: datetime
    started_ns: int
    stage_ns: dict[Stage, int] = field(default_factory=dict)
    provider_asked_ns: int | None = None
    provider_ended_ns: int | None = None
    provider_ttfb_ns: int | None = None
    caller: Caller | None = None
    session: SessionRef | None = None
    rate_limit: RateLimitDecision | None = None
    directive: Directive | None = None
    model: str | None = None
    provider: str | None = None
    provider_request_id: str | None = None
    attempts: int = 0
    is_streaming: bool = False
    messages_hash: str | None = None
    auth_cached: bool = False
    auth_stale: bool = False
    begun_id: UUID | None = None
    settlement: asyncio.Task[None] | None = None

    @classmethod
    def begin(cls, clock: Clock, request_id: UUID, trace_id: str) -> OpenExchange:
        """Open the notebook now."""
        return cls(clock, request_id, trace_id, clock.now(), clock.monotonic_ns())

    def timed(self, stage: Stage) -> _Timed:
        """Add the duration of the block to a stage, also when the block raises."""
        return _Timed(self, stage)

    def provider_asked(self, name: str) -> None:
        """The provider is asked now, for the first time."""
        self.provider = name
        self.attempts = 1
        self.provider_asked_ns = self.clock.monotonic_ns()

    def provider_answered(self, attempts: int, provider_request_id: str | None) -> None:
        """The head of its answer is here, or it failed, after so many tries."""
        self.attempts = attempts
        self.provider_request_id = provider_request_id

    def provider_spoke(self) -> None:
        """A first byte of the answer's body is here, or more of it."""
        if self.provider_ttfb_ns is None and self.provider_asked_ns is not None:
            self.provider_ttfb_ns = self.clock.monotonic_ns() - self.provider_asked_ns

    def provider_ended(self) -> None:
        """The provider has said its last, or failed, or was stopped."""
        if self.provider_ended_ns is None and self.provider_asked_ns is not None:
            self.provider_ended_ns = self.clock.monotonic_ns()
            self.stage_ns[Stage.PROVIDER] = self.provider_ended_ns - self.provider_asked_ns

    def timings(self) -> Timings:
        """Return the durations up to now."""
        total = self.clock.monotonic_ns() - self.started_ns
        return Timings(
            auth_ns=self.stage_ns.get(Stage.AUTHENTICATE),
            rate_limit_ns=self.stage_ns.get(Stage.RATE_LIMIT),
            directive_ns=self.stage_ns.get(Stage.DIRECTIVE),
            inject_ns=self.stage_ns.get(Stage.INJECT),
            provider_ttfb_ns=self.provider_ttfb_ns,
            overhead_ns=max(0, total - self.stage_ns.get(Stage.PROVIDER, 0)),
            total_ns=total,
        )

    def directive_receipt(self) -> DirectiveReceipt | None:
        """Return which directive was injected, or None."""
        directive = self.directive
        if directive is None:
            return None
        return DirectiveReceipt(directive.version_id, directive.version, directive.sha256)
