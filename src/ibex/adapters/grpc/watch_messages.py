"""Translation of the watch's messages, epochs and token pages between the protocol and the domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from ibex.adapters.grpc.generated import auth_pb2
from ibex.domain.freshness.change_log import Change, Events, Pong, SourceUnavailable, StreamStart
from ibex.domain.freshness.kinds import Epoch, Kind, unknown_epoch
from ibex.domain.freshness.token_filter import TokensPage

if TYPE_CHECKING:
    from ibex.domain.freshness.change_log import WatchMessage

ID_BYTES: Final = 16
_KINDS: Final = {
    Kind.TOKENS: auth_pb2.CHANGE_KIND_TOKENS,
    Kind.AGENTS: auth_pb2.CHANGE_KIND_AGENTS,
    Kind.DIRECTIVES: auth_pb2.CHANGE_KIND_DIRECTIVES,
}
_KINDS_BACK: Final = {int(number): kind for kind, number in _KINDS.items()}


def watch_response(message: WatchMessage) -> auth_pb2.WatchResponse:
    """Return a message of the watch as a protobuf response."""
    match message:
        case StreamStart(position):
            return auth_pb2.WatchResponse(first=auth_pb2.WatchResponse.First(position=position))
        case Events(changes):
            events = auth_pb2.WatchResponse.Events(changes=[_change_message(change) for change in changes])
            return auth_pb2.WatchResponse(events=events)
        case Pong(ping, position):
            return auth_pb2.WatchResponse(pong=auth_pb2.WatchResponse.Pong(ping=ping, position=position))
        case SourceUnavailable():
            return auth_pb2.WatchResponse(source_unavailable=auth_pb2.WatchResponse.SourceUnavailable())


def watch_message_in(response: auth_pb2.WatchResponse) -> WatchMessage:
    """Return the message in a response. Raises ``ValueError`` for an unknown or invalid one."""
    match response.WhichOneof("response"):
        case "first":
            return StreamStart(response.first.position)
        case "events":
            return Events([_change_in(change) for change in response.events.changes])
        case "pong":
            return Pong(response.pong.ping, response.pong.position)
        case "source_unavailable":
            return SourceUnavailable()
        case _:
            raise ValueError("unknown response of the watch")


def epoch_message(epoch: Epoch) -> auth_pb2.Epoch | None:
    """Return an epoch as a message; None for an unknown epoch."""
    return auth_pb2.Epoch(value=epoch.value) if epoch.was_read else None


def epoch_in(response: auth_pb2.ValidateTokenResponse | auth_pb2.ValidateAgentResponse, asked_ns: int) -> Epoch:
    """Return the epoch in a response; an unknown epoch if the response has none.

    ``asked_ns`` is the monotonic time at which the call began.
    """
    if not response.HasField("epoch"):
        return unknown_epoch(asked_ns)
    value = response.epoch.value if response.epoch.HasField("value") else None
    return Epoch(value, was_read=True, asked_ns=asked_ns)


def page_response(page: TokensPage) -> auth_pb2.TokenFilterResponse:
    """Return a page of live tokens as a response."""
    token_ids = b"".join(token_id.bytes for token_id in page.token_ids)
    return auth_pb2.TokenFilterResponse(token_ids=token_ids, is_last=page.next_after is None)


def page_in(response: auth_pb2.TokenFilterResponse) -> TokensPage:
    """Return the page in a response. Raises ``ValueError`` if it is not a sequence of whole ids."""
    raw = response.token_ids
    if len(raw) % ID_BYTES or (not raw and not response.is_last):
        raise ValueError("incomplete page of token ids")
    token_ids = [UUID(bytes=raw[start : start + ID_BYTES]) for start in range(0, len(raw), ID_BYTES)]
    return TokensPage(token_ids, None if response.is_last else token_ids[-1])


def _change_message(change: Change) -> auth_pb2.Change:
    live_token = None if change.live_token is None else str(change.live_token)
    return auth_pb2.Change(org_id=str(change.org_id), kind=_KINDS[change.kind], live_token=live_token)


def _change_in(change: auth_pb2.Change) -> Change:
    kind = _KINDS_BACK.get(int(change.kind))
    if kind is None:
        raise ValueError("unknown kind of change")
    return Change(UUID(change.org_id), kind, UUID(change.live_token) if change.HasField("live_token") else None)
