"""Tests of the conversion of the watch's messages."""

from __future__ import annotations

from uuid import UUID

import pytest

from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.watch_messages import (
    epoch_in,
    epoch_message,
    page_in,
    page_response,
    watch_message_in,
    watch_response,
)
from ibex.domain.freshness.change_log import Change, Events, Pong, SourceUnavailable, StreamStart, WatchMessage
from ibex.domain.freshness.kinds import Epoch, Kind, unknown_epoch
from ibex.domain.freshness.token_filter import TokensPage

ORG, TOKEN = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    "message",
    [
        StreamStart("a/1:2:"),
        Events([Change(ORG, kind) for kind in Kind] + [Change(ORG, Kind.TOKENS, TOKEN)]),
        Events([]),
        Pong(7, "a/1:2:"),
        SourceUnavailable(),
    ],
)
def test_a_message_survives_a_round_trip(message: WatchMessage) -> None:
    """It passes through serialized bytes."""
    raw = watch_response(message).SerializeToString()
    assert watch_message_in(auth_pb2.WatchResponse.FromString(raw)) == message


@pytest.mark.parametrize(
    "response",
    [
        auth_pb2.WatchResponse(),
        auth_pb2.WatchResponse(events=auth_pb2.WatchResponse.Events(changes=[auth_pb2.Change(org_id=str(ORG))])),
        auth_pb2.WatchResponse(
            events=auth_pb2.WatchResponse.Events(
                changes=[auth_pb2.Change(org_id="x", kind=auth_pb2.CHANGE_KIND_TOKENS)]
            )
        ),
    ],
)
def test_an_unknown_response_is_an_error(response: auth_pb2.WatchResponse) -> None:
    """A newer auth may send one. The stream then ends."""
    with pytest.raises(ValueError, match=r"unknown|badly formed"):
        watch_message_in(response)


@pytest.mark.parametrize("value", ["an epoch", None])
def test_an_epoch_survives_a_round_trip(value: str | None) -> None:
    """The value is present or absent."""
    response = auth_pb2.ValidateAgentResponse(epoch=epoch_message(Epoch(value, was_read=True, asked_ns=5)))
    assert epoch_in(response, 9) == Epoch(value, was_read=True, asked_ns=9)


def test_an_unknown_epoch_stays_unknown() -> None:
    """It is left out of the message."""
    response = auth_pb2.ValidateAgentResponse(epoch=epoch_message(unknown_epoch(5)))
    assert epoch_in(response, 9) == unknown_epoch(9)


@pytest.mark.parametrize("page", [TokensPage([TOKEN, ORG], ORG), TokensPage([TOKEN], None), TokensPage([], None)])
def test_a_page_survives_a_round_trip(page: TokensPage) -> None:
    """The position of the next page is kept."""
    assert page_in(page_response(page)) == page


@pytest.mark.parametrize(
    "response", [auth_pb2.TokenFilterResponse(token_ids=bytes(17)), auth_pb2.TokenFilterResponse(is_last=False)]
)
def test_an_incomplete_page_is_an_error(response: auth_pb2.TokenFilterResponse) -> None:
    """It has half an id, or is empty and not the last page."""
    with pytest.raises(ValueError, match="incomplete"):
        page_in(response)
