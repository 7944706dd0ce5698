"""Translation between the domain's values and protobuf messages, with validation.

An invalid request raises ``ValidationError``, an invalid response ``ValueError``. Neither error contains a value.
"""

from __future__ import annotations

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.watch_messages import epoch_in, epoch_message
from ibex.domain import ids
from ibex.domain.errors import FieldCode, FieldError, ValidationError
from ibex.domain.freshness.cache import Fetched
from ibex.domain.identity.management import TokenGrant, TokenPosition
from ibex.domain.identity.model import Agent, AgentStatus, PersonalAccessToken, Principal
from ibex.domain.identity.permissions import permissions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from ibex.domain.identity.management import StoredToken
    from ibex.domain.identity.permissions import Permission

MAX_NAME_CHARACTERS: Final = 128
DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_REMAINING_S: Final = 10_000 * 366 * 86_400
_MICROSECOND: Final = timedelta(microseconds=1)
_POSITION: Final = struct.Struct(">q16s")
_STATUSES: Final = {
    AgentStatus.ACTIVE: auth_pb2.AGENT_STATUS_ACTIVE,
    AgentStatus.PAUSED: auth_pb2.AGENT_STATUS_PAUSED,
    AgentStatus.SUSPENDED: auth_pb2.AGENT_STATUS_SUSPENDED,
    AgentStatus.ARCHIVED: auth_pb2.AGENT_STATUS_ARCHIVED,
}
_STATUSES_BACK: Final = {int(number): status for status, number in _STATUSES.items()}


def principal_message(fetched: Fetched[Principal]) -> auth_pb2.ValidateTokenResponse:
    """Return the response to ValidateToken: a principal, and the epoch that was read before it."""
    principal = fetched.value
    response = auth_pb2.ValidateTokenResponse(
        org_id=str(principal.org_id),
        permissions=int(principal.permissions),
        token_id=str(principal.token_id),
        user_id=_text(principal.user_id),
        agent_id=_text(principal.agent_id),
        rate_limit_rpm=principal.rate_limit_rpm,
        epoch=epoch_message(fetched.epoch),
    )
    if principal.remaining_s is not None:
        response.remaining.FromTimedelta(timedelta(seconds=principal.remaining_s))
    return response


def principal_in(
    response: auth_pb2.ValidateTokenResponse, token: PersonalAccessToken, asked_ns: int
) -> Fetched[Principal]:
    """Return the principal in a response. Raises ``ValueError`` if it is invalid or belongs to another token.

    ``asked_ns`` is the monotonic time at which the call began.
    """
    token_id = UUID(response.token_id)
    if token_id != token.token_id:
        raise ValueError("the response is for another token")
    principal = Principal(
        org_id=UUID(response.org_id),
        token_id=token_id,
        permissions=permissions_of(response.permissions),
        user_id=UUID(response.user_id) if response.HasField("user_id") else None,
        agent_id=UUID(response.agent_id) if response.HasField("agent_id") else None,
        remaining_s=_seconds_in(response.remaining) if response.HasField("remaining") else None,
        rate_limit_rpm=response.rate_limit_rpm if response.HasField("rate_limit_rpm") else None,
    )
    return Fetched(principal, epoch_in(response, asked_ns))


def agent_message(fetched: Fetched[Agent]) -> auth_pb2.ValidateAgentResponse:
    """Return the response to ValidateAgent: an agent, and the epoch that was read before it."""
    agent = fetched.value
    return auth_pb2.ValidateAgentResponse(
        agent_id=str(agent.id),
        org_id=str(agent.org_id),
        status=_STATUSES[agent.status],
        epoch=epoch_message(fetched.epoch),
    )


def agent_in(response: auth_pb2.ValidateAgentResponse, org_id: UUID, agent_id: UUID, asked_ns: int) -> Fetched[Agent]:
    """Return the agent in a response. Raises ``ValueError`` for another agent, an invalid id or an unknown status."""
    agent = Agent(UUID(response.agent_id), UUID(response.org_id), _status(response.status))
    if (agent.id, agent.org_id) != (agent_id, org_id):
        raise ValueError("the response is for another agent")
    return Fetched(agent, epoch_in(response, asked_ns))


def token_message(token: StoredToken) -> auth_pb2.Token:
    """Return a token as ListTokens returns it, without its digest and the key id of its pepper."""
    return auth_pb2.Token(
        token_id=str(token.id),
        org_id=str(token.org_id),
        name=token.name,
        permissions=int(token.permissions),
        user_id=_text(token.user_id),
        agent_id=_text(token.agent_id),
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
    )


def page_message(tokens: Sequence[StoredToken], size: int) -> auth_pb2.ListTokensResponse:
    """Return the first ``size`` tokens as a page, with a ``next_page_token`` if ``tokens`` has more."""
    page = tokens[:size]
    following = position_text(TokenPosition(page[-1].created_at, page[-1].id)) if len(tokens) > size else ""
    return auth_pb2.ListTokensResponse(tokens=map(token_message, page), next_page_token=following)


def parse_uuid(field: str, text: str) -> UUID:
    """Return the UUID in a request's field. Raises ``ValidationError``."""
    found = ids.parse_uuid(text)
    if found is None:
        raise _wrong(field, "must be a UUID")
    return found


def grant_in(request: auth_pb2.CreateTokenRequest) -> TokenGrant:
    """Return the grant of a new token. Raises ``ValidationError``."""
    name = request.name
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
        raise _wrong("name", f"must be 1 to {MAX_NAME_CHARACTERS} printable characters")
    return TokenGrant(
        name=name,
        permissions=_permissions_in(request.permissions),
        user_id=parse_uuid("user_id", request.user_id) if request.HasField("user_id") else None,
        agent_id=parse_uuid("agent_id", request.agent_id) if request.HasField("agent_id") else None,
        expires_at=_expiry_in(request.expires_at) if request.HasField("expires_at") else None,
    )


def page_size_in(request: auth_pb2.ListTokensRequest) -> int:
    """Return the requested page size, ``DEFAULT_PAGE_SIZE`` for 0. Raises ``ValidationError``."""
    if request.page_size > MAX_PAGE_SIZE:
        raise _wrong("page_size", f"must be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
    return request.page_size or DEFAULT_PAGE_SIZE


def position_in(request: auth_pb2.ListTokensRequest) -> TokenPosition | None:
    """Return the position after which a page begins, None for the first page. Raises ``ValidationError``."""
    if not request.page_token:
        return None
    try:
        microseconds, id_bytes = _POSITION.unpack(base64.b64decode(request.page_token, b"-_", validate=True))
        return TokenPosition(_EPOCH + timedelta(microseconds=microseconds), UUID(bytes=id_bytes))
    except (binascii.Error, struct.error, ValueError, OverflowError):
        raise _wrong("page_token", "must be the next_page_token of an earlier response, or empty") from None


def position_text(position: TokenPosition) -> str:
    """Return a position as ``page_token``. It contains only the creation time and the id of the last listed token."""
    microseconds = (position.created_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(_POSITION.pack(microseconds, position.id.bytes)).decode("ascii")


def _permissions_in(bitmap: int) -> Permission:
    try:
        return permissions_of(bitmap)
    except ValueError:
        raise _wrong("permissions", "must be a bitmask below 2^56") from None


def _expiry_in(timestamp: Timestamp) -> datetime:
    try:
        return _time(timestamp)
    except (ValueError, OverflowError):
        raise _wrong("expires_at", "must be a time in the years 1 to 9999") from None


def _wrong(field: str, message: str) -> ValidationError:
    return ValidationError((FieldError(field, FieldCode.INVALID_FORMAT, message),))


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _time(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(UTC)


def _seconds_in(duration: Duration) -> float:
    if not 0 <= duration.seconds <= _MAX_REMAINING_S:
        raise ValueError("the token's remaining lifetime is out of range")
    return duration.seconds + duration.nanos / 1_000_000_000


def _status(number: int) -> AgentStatus:
    status = _STATUSES_BACK.get(number)
    if status is None:
        raise ValueError("unknown agent status")
    return status
