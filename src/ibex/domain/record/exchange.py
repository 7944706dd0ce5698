"""The record of one request, computed once. Checkpoint, trace, log line and metrics are derived from it."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime  # noqa: TC003 - the journal reads the annotations at run time
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID  # noqa: TC003 - the same

from ibex.domain.errors import ErrorCode  # noqa: TC001 - the same
from ibex.domain.record.summary import ResponseSummary
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from ibex.domain.identity.model import Principal

_SPAN_ID_BITS: Final = (1 << 64) - 1


class Stage(StrEnum):
    """The stages of a request whose duration is recorded."""

    AUTHENTICATE = "auth"
    RATE_LIMIT = "rate_limit"
    DIRECTIVE = "directive"
    INJECT = "inject"
    PROVIDER = "provider"


@value_object
class Timings:
    """Durations in nanoseconds; None for a stage that the request did not reach.

    ``auth`` covers token and agent. ``provider_ttfb`` is the time from the first attempt to the first byte of the
    response's body or, for a buffered response, to the whole body. ``overhead`` is ``total`` without the time from
    asking the provider to its last byte.
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
    """The version of a directive that was injected."""

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
        """Return the caller with this token, with the agent once it is verified."""
        return cls(principal.org_id, principal.token_id, agent_id, principal.user_id)


@value_object
class SessionRef:
    """The session of a request: the client's handle, the id derived from it, and whether this turn ends the session."""

    id: UUID
    handle: str
    ends: bool = False


@value_object
class Exchange:
    """One finished request. Contains no secret and no text of any message.

    ``id`` is unique, and the checkpoint has the same id. ``request_id`` is the id in the response, which the client can
    choose. Only an exchange with ``reached_provider`` has a checkpoint. ``status`` is the outcome as a status of the
    client's protocol (499: the client closed the request), even if a stream had begun with 200. ``error_code`` is None
    for a success. ``emitter_seq`` counts from 1 without gaps in the process ``emitter_id``, and is 0 for an exchange
    that is not recorded individually. ``repeated`` is the number of requests that the exchange stands for: more than 1
    only for aggregated refusals (``aggregated_refusals``). ``operation`` is the name of the operation.
    ``connect_failure`` names the provider's host and the reason if no connection to it was made.
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
    connect_failure: str | None = None


def provider_span_id(exchange_id: UUID) -> int:
    """Return the span id of the call to the provider, which includes all attempts: 64 bits, never 0.

    It is the low half of the exchange's UUIDv7, two constant and 62 random bits, so it is known before the call as well
    as when the span is made.
    """
    return exchange_id.int & _SPAN_ID_BITS
