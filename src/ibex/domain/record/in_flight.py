"""The state of a request in flight, which the recorder turns into an ``Exchange`` when it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ibex.domain.record.exchange import DirectiveReceipt, Stage, Timings

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.directives.model import Directive
    from ibex.domain.identity.rate_limits import RateLimitDecision
    from ibex.domain.record.exchange import Caller, SessionRef


class Recording:
    """The recording of one exchange. Tasks wait for its end. Cancelling a task ends its wait, not the recording."""

    __slots__ = ("_is_over", "_waiting")

    def __init__(self) -> None:
        self._is_over = False
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return once the exchange is recorded."""
        if not self._is_over:
            over = asyncio.get_running_loop().create_future()
            self._waiting.append(over)
            await over

    def end(self) -> None:
        """Wake all waiting tasks."""
        self._is_over = True
        for over in self._waiting:
            if not over.done():
                over.set_result(None)


@dataclass(slots=True)
class InFlightExchange:
    """The state of an exchange in flight. The metadata of the response is derived from it as well.

    ``processing_ms`` is the processing time that the provider reports, in milliseconds; None if it reports none.
    ``limit_rpm`` is the organization's limit as cached, 0 for unlimited. ``is_excess_refusal`` is whether a refused
    request is beyond its organization's limit of refusals; None while the request is not refused.
    """

    clock: Clock
    request_id: UUID
    trace_id: str
    requested_at: datetime
    started_ns: int
    operation: str = ""
    stage_ns: dict[Stage, int] = field(default_factory=dict)
    stage: Stage | None = None
    stage_since_ns: int = 0
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
    provider_status: int | None = None
    processing_ms: int | None = None
    connect_failure: str | None = None
    is_streaming: bool = False
    messages_hash: str | None = None
    auth_cached: bool = False
    auth_stale: bool = False
    limit_rpm: int = 0
    is_excess_refusal: bool | None = None
    journal_id: UUID | None = None
    recording: Recording | None = None

    @classmethod
    def begin(cls, clock: Clock, request_id: UUID, trace_id: str, operation: str = "") -> InFlightExchange:
        """Begin an exchange now."""
        return cls(clock, request_id, trace_id, clock.now(), clock.monotonic_ns(), operation)

    def enter(self, stage: Stage | None) -> None:
        """End the current stage, and begin ``stage`` unless it is None. Times in the same stage add up."""
        now_ns = self.clock.monotonic_ns()
        ended = self.stage
        if ended is not None:
            self.stage_ns[ended] = self.stage_ns.get(ended, 0) + now_ns - self.stage_since_ns
        self.stage = stage
        self.stage_since_ns = now_ns

    def provider_asked(self, name: str) -> None:
        """Note that the provider is asked now, for the first time."""
        self.provider = name
        self.attempts = 1
        self.provider_asked_ns = self.clock.monotonic_ns()

    def provider_answered(
        self,
        attempts: int,
        provider_request_id: str | None,
        status: int | None = None,
        processing_ms: int | None = None,
    ) -> None:
        """Note that the response has begun, or that the provider failed, with ``status`` if it sent one."""
        self.attempts = attempts
        self.provider_request_id = provider_request_id
        self.provider_status = status
        self.processing_ms = processing_ms

    def provider_not_reached(self, attempts: int) -> None:
        """Note that no connection was available. If ``attempts`` is 0, the provider counts as not asked."""
        self.attempts = attempts
        if not attempts:
            self.provider_asked_ns = None

    def provider_sent_bytes(self) -> None:
        """Note that bytes of the response's body have arrived. Only the first call counts."""
        if self.provider_ttfb_ns is None and self.provider_asked_ns is not None:
            self.provider_ttfb_ns = self.clock.monotonic_ns() - self.provider_asked_ns

    def provider_ended(self) -> None:
        """Note that the provider has completed the response, has failed or was stopped. Only the first call counts."""
        if self.provider_ended_ns is None and self.provider_asked_ns is not None:
            self.provider_ended_ns = self.clock.monotonic_ns()
            self.stage_ns[Stage.PROVIDER] = self.provider_ended_ns - self.provider_asked_ns

    def timings(self) -> Timings:
        """Return the durations up to now. Ends the current stage, if an exception has left it open."""
        if self.stage is not None:
            self.enter(None)
        total = self.clock.monotonic_ns() - self.started_ns
        stage_ns = self.stage_ns.get
        return Timings(
            auth_ns=stage_ns(Stage.AUTHENTICATE),
            rate_limit_ns=stage_ns(Stage.RATE_LIMIT),
            directive_ns=stage_ns(Stage.DIRECTIVE),
            inject_ns=stage_ns(Stage.INJECT),
            provider_ttfb_ns=self.provider_ttfb_ns,
            overhead_ns=max(0, total - stage_ns(Stage.PROVIDER, 0)),
            total_ns=total,
        )

    def directive_receipt(self) -> DirectiveReceipt | None:
        """Return the version of the directive that was injected, or None."""
        directive = self.directive
        if directive is None:
            return None
        return DirectiveReceipt(directive.version_id, directive.version, directive.sha256)
