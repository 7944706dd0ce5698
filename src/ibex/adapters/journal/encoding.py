"""How an exchange lies in the journal: one MessagePack array of the encoding's version and the exchange's fields.

Fields are encoded by name, as the domain calls them. Unknown ones are passed over and absent ones take their default,
so that a field may be added to ``Exchange``, with a default, without a new version. Renaming or removing one needs a
new version beside the old, since a journal outlives the program that wrote it.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotations when the program runs
from typing import Final
from uuid import UUID  # noqa: TC003 - the same

import msgspec

from ibex.domain.completion import CompletionSummary
from ibex.domain.errors import ErrorCode  # noqa: TC001 - the same
from ibex.domain.exchange import CHAT_COMPLETIONS, Caller, DirectiveReceipt, Exchange, SessionRef, Timings

VERSION: Final = 1


class UnreadableExchangeError(Exception):
    """Bytes in the journal are not an exchange of a version that this program knows. The message holds none of them."""


class _Caller(msgspec.Struct, frozen=True):
    org_id: UUID
    token_id: UUID
    agent_id: UUID | None = None


class _Session(msgspec.Struct, frozen=True):
    id: UUID
    handle: str
    ends: bool = False


class _Directive(msgspec.Struct, frozen=True):
    version_id: UUID
    version: int
    sha256: str


class _Exchange(msgspec.Struct, frozen=True):
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
    caller: _Caller | None = None
    session: _Session | None = None
    model: str | None = None
    provider: str | None = None
    provider_request_id: str | None = None
    attempts: int = 0
    reached_provider: bool = False
    is_streaming: bool = False
    is_complete: bool = False
    messages_hash: str | None = None
    summary: CompletionSummary = CompletionSummary()
    directive: _Directive | None = None
    auth_cached: bool = False
    repeated: int = 1
    operation: str = CHAT_COMPLETIONS


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_exchange_decoder = msgspec.msgpack.Decoder(_Exchange)


def encode(exchange: Exchange) -> bytes:
    """Return the bytes that ``decode`` makes the same exchange of."""
    return _encoder.encode((VERSION, exchange))


def decode(encoded: bytes) -> Exchange:
    """Return the exchange. Raises ``UnreadableExchangeError``."""
    try:
        version, body = _decoder.decode(encoded)
        if version != VERSION:
            raise UnreadableExchangeError(f"an exchange in the journal has the unknown version {version}")
        row = _exchange_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise UnreadableExchangeError(f"an exchange in the journal cannot be read ({type(error).__name__})") from None
    caller, session, directive = row.caller, row.session, row.directive
    return Exchange(
        id=row.id,
        request_id=row.request_id,
        trace_id=row.trace_id,
        emitter_id=row.emitter_id,
        emitter_seq=row.emitter_seq,
        requested_at=row.requested_at,
        completed_at=row.completed_at,
        timings=row.timings,
        status=row.status,
        error_code=row.error_code,
        caller=Caller(caller.org_id, caller.token_id, caller.agent_id) if caller else None,
        session=SessionRef(session.id, session.handle, session.ends) if session else None,
        model=row.model,
        provider=row.provider,
        provider_request_id=row.provider_request_id,
        attempts=row.attempts,
        reached_provider=row.reached_provider,
        is_streaming=row.is_streaming,
        is_complete=row.is_complete,
        messages_hash=row.messages_hash,
        summary=row.summary,
        directive=DirectiveReceipt(directive.version_id, directive.version, directive.sha256) if directive else None,
        auth_cached=row.auth_cached,
        repeated=row.repeated,
        operation=row.operation,
    )
