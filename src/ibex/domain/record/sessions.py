"""Sessions and their checkpoints."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.record.exchange import Caller, Exchange
from ibex.domain.value_object import field_copier, value_object

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.record.exchange import SessionRef

_HANDLE = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


class SessionStatus(StrEnum):
    """A session's state."""

    ACTIVE = "active"
    COMPLETED = "completed"
    ABANDONED = "abandoned"
    ERROR = "error"


@value_object
class Turn:
    """The recorded fields of one turn.

    ``latency_ms`` is the total time of the request, in milliseconds. Token counts are None if the provider did not
    report them, ``user_id`` if the token belongs to no user, ``token_id`` in records older than this field.
    ``response_id`` is the provider's id of a response that later requests can name, else None.
    ``directive_version_id`` is the injected version of the directive, None if none was injected.
    """

    id: UUID
    request_id: UUID
    token_id: UUID | None
    user_id: UUID | None
    operation: str
    messages_hash: str
    completion_hash: str | None
    input_tokens: int | None
    output_tokens: int | None
    model: str
    provider: str
    latency_ms: int
    provider_request_id: str | None
    is_streaming: bool
    is_complete: bool
    created_at: datetime
    response_id: str | None
    directive_version_id: UUID | None


@value_object
class Checkpoint(Turn):
    """The record of one turn, to be stored. The store assigns the ``turn_index``, in the order of arrival."""

    org_id: UUID
    agent_id: UUID
    session: SessionRef


_copied: Final = field_copier(Exchange, Checkpoint, without=("model", "provider", "messages_hash", "session"))
_copied_from_caller: Final = field_copier(Caller, Checkpoint)


def is_valid_handle(text: str) -> bool:
    """Return whether a text is a valid session handle: 1 to 128 characters of ``A-Z a-z 0-9 . _ : -``."""
    return _HANDLE.fullmatch(text) is not None


def checkpoint_of(exchange: Exchange) -> Checkpoint | None:
    """Return the checkpoint of an exchange, or None if it did not reach the provider or makes no turn."""
    caller, session = exchange.caller, exchange.session
    if not exchange.reached_provider or caller is None or caller.agent_id is None or session is None:
        return None
    summary = exchange.summary
    return Checkpoint(
        **_copied(exchange),
        **_copied_from_caller(caller),
        session=session,
        messages_hash=exchange.messages_hash or "",
        completion_hash=summary.completion_hash,
        input_tokens=summary.usage.input_tokens,
        output_tokens=summary.usage.output_tokens,
        model=exchange.model or "",
        provider=exchange.provider or "",
        directive_version_id=exchange.directive.version_id if exchange.directive else None,
        latency_ms=exchange.timings.total_ns // 1_000_000,
        created_at=exchange.completed_at,
        response_id=summary.response_id,
    )


class SessionStore(Protocol):
    """Port: the store of sessions and checkpoints."""

    async def append(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Store checkpoints in order, creating their sessions and adding to their totals.

        Stores all checkpoints of an organization or none. Idempotent by ``Checkpoint.id``: one that is stored already
        changes nothing. A turn with ``session.ends`` completes its session. Raises ``SinkUnavailableError`` if it
        cannot be done now; retry with the same batch. Raises ``SinkRefusedError`` if it will never accept one of them.
        """


class SinkUnavailableError(Exception):
    """A sink cannot store a batch now. Keep the batch and retry. The message contains no content of a row."""


class SinkRefusedError(Exception):
    """A sink refuses a batch because of its content: it would refuse the same batch again.

    The message contains no content of a row.
    """
