"""Tests of the conversion of domain values to messages and back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tenants import new_token
from ibex.adapters.grpc.generated import auth_pb2
from ibex.adapters.grpc.messages import (
    agent_in,
    agent_message,
    grant_in,
    page_message,
    page_size_in,
    parse_uuid,
    position_in,
    position_text,
    principal_in,
    principal_message,
    token_message,
)
from ibex.domain.errors import ValidationError
from ibex.domain.freshness.cache import Fetched
from ibex.domain.freshness.kinds import Epoch, unknown_epoch
from ibex.domain.identity.management import TokenGrant, TokenPosition
from ibex.domain.identity.model import Agent, AgentStatus, PersonalAccessToken, Principal
from ibex.domain.identity.permissions import ADMIN, permissions_of

TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
IDS = st.uuids()
ORG, OTHER = UUID(int=1), UUID(int=2)
ASKED_NS = 7
UNKNOWN = unknown_epoch(1)
EPOCHS = st.just(UNKNOWN) | st.builds(
    Epoch, value=st.none() | st.text(min_size=1), was_read=st.just(value=True), asked_ns=st.just(1)
)


@given(
    st.builds(
        Principal,
        org_id=IDS,
        token_id=IDS,
        permissions=st.integers(0, (1 << 56) - 1).map(permissions_of),
        user_id=st.none() | IDS,
        agent_id=st.none() | IDS,
        # Eighths of a second are exact floats and exact durations; other fractions may differ in the last bit.
        remaining_s=st.none() | st.integers(1, 10**10).map(lambda eighths: eighths / 8),
        rate_limit_rpm=st.none() | st.integers(0, (1 << 31) - 1),
    ),
    EPOCHS,
)
def test_a_principal_survives_a_round_trip(principal: Principal, epoch: Epoch) -> None:
    """It passes through serialized bytes, with the epoch and with absent fields."""
    wire = principal_message(Fetched(principal, epoch)).SerializeToString()

    token = PersonalAccessToken.issue(principal.token_id, bytes(32))
    fetched = principal_in(auth_pb2.ValidateTokenResponse.FromString(wire), token, ASKED_NS)
    assert fetched == Fetched(principal, replace(epoch, asked_ns=ASKED_NS))


@pytest.mark.parametrize(
    "epoch", [Epoch("a", was_read=True, asked_ns=1), Epoch(None, was_read=True, asked_ns=1), UNKNOWN]
)
@pytest.mark.parametrize("status", AgentStatus)
def test_an_agent_survives_a_round_trip(status: AgentStatus, epoch: Epoch) -> None:
    """An absent epoch and an unknown one stay distinct. The receiver sets the time of the epoch."""
    agent = Agent(UUID(int=3), ORG, status)
    wire = agent_message(Fetched(agent, epoch)).SerializeToString()

    fetched = agent_in(auth_pb2.ValidateAgentResponse.FromString(wire), ORG, agent.id, ASKED_NS)
    assert fetched == Fetched(agent, replace(epoch, asked_ns=ASKED_NS))


def test_a_response_for_another_token_or_agent_is_refused() -> None:
    """A mix-up on the other side must not give a caller another identity."""
    token = PersonalAccessToken.issue(UUID(int=5), bytes(32))
    agent = agent_message(Fetched(Agent(UUID(int=3), ORG, AgentStatus.ACTIVE), UNKNOWN))

    with pytest.raises(ValueError, match="another token"):
        principal_in(principal_message(Fetched(Principal(ORG, UUID(int=6), ADMIN), UNKNOWN)), token, ASKED_NS)
    for org_id, agent_id in ((OTHER, UUID(int=3)), (ORG, UUID(int=4))):
        with pytest.raises(ValueError, match="another agent"):
            agent_in(agent, org_id, agent_id, ASKED_NS)


@pytest.mark.parametrize(
    "fields",
    [
        {"org_id": ""},
        {"token_id": "x"},
        {"permissions": 1 << 63},
        {"user_id": ""},
        {"agent_id": "x"},
        {"remaining": {"seconds": 1 << 60}},
        {"remaining": {"seconds": -1}},
    ],
    ids=str,
)
def test_an_invalid_principal_is_refused(fields: dict[str, object]) -> None:
    """Invalid values are refused, not guessed."""
    token = PersonalAccessToken.issue(UUID(int=5), bytes(32))
    whole = {"org_id": str(ORG), "token_id": str(token.token_id), "permissions": 1}

    with pytest.raises(ValueError):  # noqa: PT011 - each field has its own message
        principal_in(auth_pb2.ValidateTokenResponse(**(whole | fields)), token, ASKED_NS)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 5, 99])
def test_an_unknown_status_of_an_agent_is_refused(number: int) -> None:
    """An agent with an unknown status must not act."""
    message = auth_pb2.ValidateAgentResponse(
        agent_id=str(OTHER),
        org_id=str(ORG),
        status=number,  # type: ignore[arg-type]
    )

    with pytest.raises(ValueError, match="status"):
        agent_in(message, ORG, OTHER, ASKED_NS)


def test_a_listed_token_shows_no_digest() -> None:
    """The message does not contain the key id either."""
    token = new_token(ORG, agent_id=OTHER)
    wire = token_message(token).SerializeToString()

    assert token.digest not in wire
    assert token.key_id.encode() not in wire
    assert token_message(token).created_at.ToDatetime(UTC) == token.created_at


def test_a_page_has_the_position_of_the_next_page() -> None:
    """The page has a token only if there are more tokens."""
    tokens = [new_token(ORG) for _ in range(3)]

    whole, part = page_message(tokens, 3), page_message(tokens, 2)

    assert [token.token_id for token in part.tokens] == [str(token.id) for token in tokens[:2]]
    assert position_in(auth_pb2.ListTokensRequest(page_token=part.next_page_token)) == TokenPosition(
        tokens[1].created_at, tokens[1].id
    )
    assert (len(whole.tokens), whole.next_page_token) == (3, "")
    assert page_message([], 3) == auth_pb2.ListTokensResponse()


@given(st.builds(TokenPosition, TIMES, IDS))
def test_a_position_survives_a_round_trip(position: TokenPosition) -> None:
    """Times keep their microseconds."""
    assert position_in(auth_pb2.ListTokensRequest(page_token=position_text(position))) == position


@given(st.text(max_size=64))
def test_any_page_token_is_parsed_or_is_a_validation_error(text: str) -> None:
    """Only an empty text means that there is no position."""
    try:
        position = position_in(auth_pb2.ListTokensRequest(page_token=text))
    except ValidationError as error:
        assert [field.field for field in error.field_errors] == ["page_token"]  # noqa: PT017 - not every text raises
    else:
        assert (position is None) is (text == "")


def test_the_size_of_a_page_is_limited() -> None:
    """It is the requested size or the default. A size above the maximum is an error."""
    assert [page_size_in(auth_pb2.ListTokensRequest(page_size=size)) for size in (0, 1, 200)] == [50, 1, 200]
    with pytest.raises(ValidationError, match="page_size"):
        page_size_in(auth_pb2.ListTokensRequest(page_size=201))


def test_a_grant_has_the_requested_values() -> None:
    """The first grant has all fields, the second only a name."""
    user_id, agent_id = uuid4(), uuid4()
    expires_at = datetime(2031, 5, 1, tzinfo=UTC) + timedelta(microseconds=7)
    request = auth_pb2.CreateTokenRequest(
        name="ci",
        permissions=int(ADMIN),
        user_id=str(user_id),
        agent_id=str(agent_id),
        expires_at=expires_at,
    )

    assert grant_in(request) == TokenGrant("ci", ADMIN, user_id, agent_id, expires_at)
    assert grant_in(auth_pb2.CreateTokenRequest(name="ü")) == TokenGrant("ü", permissions_of(0))


@pytest.mark.parametrize("text", ["", "x", "0" * 31, "\0", "\ud7ff"])
def test_an_id_that_is_not_a_uuid_is_an_error(text: str) -> None:
    """The error names the field and does not contain the value."""
    with pytest.raises(ValidationError) as raised:
        parse_uuid("org_id", text)

    assert str(raised.value) == "org_id: must be a UUID"
