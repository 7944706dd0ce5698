"""Sessions, and the checkpoint of an exchange."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.exchanges import an_exchange
from ibex.domain.record.exchange import Caller, SessionRef, Timings
from ibex.domain.record.sessions import Checkpoint, checkpoint_of, is_valid_handle
from ibex.domain.record.summary import ResponseSummary, Usage

ALLOWED = "ABCXYZabcxyz0189._:-"


def test_every_field_of_a_checkpoint_comes_from_the_exchange() -> None:
    """The id is that of the exchange, and the latency is in whole milliseconds."""
    exchange = an_exchange()

    assert checkpoint_of(exchange) == Checkpoint(
        id=UUID(int=1),
        request_id=UUID(int=2),
        org_id=UUID(int=5),
        agent_id=UUID(int=7),
        token_id=UUID(int=6),
        user_id=UUID(int=10),
        operation="chat.completions",
        session=SessionRef(UUID(int=8), "conversation-1"),
        messages_hash="a1" * 32,
        completion_hash="b2" * 32,
        input_tokens=11,
        output_tokens=7,
        model="gpt-4o",
        provider="openai",
        directive_version_id=UUID(int=9),
        latency_ms=1_234,
        provider_request_id="req_1",
        is_streaming=True,
        is_complete=True,
        created_at=exchange.completed_at,
        response_id=None,
    )


def test_values_that_the_provider_did_not_report_stay_unknown() -> None:
    """An unknown value is None, not zero. Without a directive there is no version."""
    checkpoint = checkpoint_of(
        an_exchange(
            summary=ResponseSummary(usage=Usage()),
            directive=None,
            provider_request_id=None,
            is_complete=False,
            is_streaming=False,
            timings=Timings(total_ns=999_999),
        )
    )

    assert checkpoint is not None
    assert (checkpoint.input_tokens, checkpoint.output_tokens, checkpoint.completion_hash) == (None, None, None)
    assert (checkpoint.directive_version_id, checkpoint.provider_request_id) == (None, None)
    assert (checkpoint.is_complete, checkpoint.is_streaming, checkpoint.latency_ms) == (False, False, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"reached_provider": False},
        {"caller": None},
        {"caller": Caller(UUID(int=5), UUID(int=6))},
        {"session": None},
    ],
)
def test_an_exchange_that_did_not_reach_the_provider_has_no_checkpoint(changes: dict[str, object]) -> None:
    """A turn needs a provider, an agent and a session."""
    assert checkpoint_of(an_exchange(**changes)) is None


@given(st.text(st.sampled_from(ALLOWED), min_size=1, max_size=128))
def test_a_valid_session_handle_is_accepted(handle: str) -> None:
    """It has up to 128 ASCII letters, digits, dots, underscores, colons and hyphens."""
    assert is_valid_handle(handle)


@pytest.mark.parametrize("handle", ["", "a" * 129, "a b", "a/b", "ä", "a\n", "\n", "a\x00", "٣", "{}"])
def test_an_invalid_session_handle_is_refused(handle: str) -> None:
    """Examples are a digit of another script and a newline at the end."""
    assert not is_valid_handle(handle)
