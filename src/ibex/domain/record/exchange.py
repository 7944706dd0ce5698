"""What one request leaves behind. Computed once; checkpoint, trace, log line and metrics are views of it."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime  # noqa: TC003 - the journal reads the annotations when the program runs
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID  # noqa: TC003 - the same

from ibex.domain.errors import ErrorCode  # noqa: TC001 - the same
from ibex.domain.record.summary import ResponseSummary
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from ibex.domain.identity.model import Principal


class Stage(StrEnum):
    """The stages of a request whose duration is recorded."""

    AUTHENTICATE = "auth"
    RATE_LIMIT = "rate_limit"
    DIRECTIVE = "directive"
    INJECT = "inject"
    PROVIDER = "provider"


@value_object
class Timings:
    """Durations in nanoseconds; None where the request did not get that far.

    ``auth`` covers token and agent. ``provider_ttfb`` is from the first try to the first byte of the answer's body or,
    for a buffered answer, to its whole. ``overhead`` is ``total`` less the time from asking the provider to its last
    byte.
    """

    auth_ns: int | None = None
    rate_limit_ns: int | None = None
    directive_ns: int | None = None
    inject_ns: int | None = None
    provider_ttfb_ns: int | None = None
    overhead_ns: int = 0
    total_ns: int = 0


@value_object
class DirectiveReceipt:
    """Which directive was injected."""

    version_id: UUID
    version: int
    sha256: str


@value_object
class Caller:
    """The verified caller of a request.

    ``agent_id`` is None until the agent is verified. ``user_id`` is None if the token belongs to no user.
    """

    org_id: UUID
    token_id: UUID
    agent_id: UUID | None = None
    user_id: UUID | None = None

    @classmethod
    def of(cls, principal: Principal, agent_id: UUID | None = None) -> Caller:
        """Return the holder of a token, as the agent or before that is known."""
        return cls(principal.org_id, principal.token_id, agent_id, principal.user_id)


@value_object
class SessionRef:
    """The session of the request: the client's handle, the id made of it, and whether this turn ends it."""

    id: UUID
    handle: str
    ends: bool = False


@value_object
class Exchange:
    """One finished request. Holds no secret and no text of any message.

    ``id`` is made here and unique, also as the checkpoint's id; ``request_id`` is what the client was told and may have
    been its own choice. ``reached_provider`` decides whether there is a checkpoint. ``status`` is how it came out, as
    the client's protocol counts that (499: the client had gone), also where a stream's 200 had been sent before.
    ``error_code`` is None for a success. ``emitter_seq`` counts from 1 without gaps in the process ``emitter_id``, and
    is 0 for an exchange that is not recorded by itself. ``repeated`` is the number of requests that it stands for: more
    than 1 only for aggregated refusals (``aggregated_refusals``). ``operation`` is the name of the operation.
    """

    id: UUID
    request_id: UUID
    trace_id: str
    emitter_id: UUID
    emitter_seq: int
    requested_at: datetime
    completed_at: datetime
    timings: Timings
    status: int
    error_code: ErrorCode | None = None
    caller: Caller | None = None
    session: SessionRef | None = None
    model: str | None = None
    provider: str | None = None
    provider_request_id: str | None = None
    attempts: int = 0
    reached_provider: bool = False
    is_streaming: bool = False
    is_complete: bool = False
    messages_hash: str | None = None
    summary: ResponseSummary = field(default_factory=ResponseSummary)
    directive: DirectiveReceipt | None = None
    auth_cached: bool = False
    repeated: int = 1
    operation: str = ""
