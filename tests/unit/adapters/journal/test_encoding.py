"""Tests of the encoding of an exchange in the journal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from harness.journal_entries import new_exchange
from ibex.adapters.journal.encoding import UnreadableExchangeError, decode, encode
from ibex.domain.errors import ErrorCode
from ibex.domain.record.exchange import Caller, Exchange, Timings
from ibex.domain.record.summary import ResponseSummary, Usage

_MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
_BARE = Exchange(
    id=UUID(int=1),
    request_id=UUID(int=2),
    trace_id="t",
    emitter_id=UUID(int=3),
    emitter_seq=4,
    requested_at=_MOMENT,
    completed_at=_MOMENT,
    timings=Timings(auth_ns=5, total_ns=6),
    status=429,
    error_code=ErrorCode.RATE_LIMITED,
    caller=Caller(UUID(int=7), UUID(int=8)),
    summary=ResponseSummary(usage=Usage(input_tokens=9)),
)
# The encoding of _BARE by format version 1. Journals on disk contain such bytes, so this never changes.
_WRITTEN_BY_VERSION_1 = msgspec.msgpack.encode(
    [
        1,
        {
            "id": bytes(15) + b"\x01",
            "request_id": bytes(15) + b"\x02",
            "trace_id": "t",
            "emitter_id": bytes(15) + b"\x03",
            "emitter_seq": 4,
            "requested_at": _MOMENT,
            "completed_at": _MOMENT,
            "timings": {"auth_ns": 5, "total_ns": 6},
            "status": 429,
            "error_code": "RATE_LIMITED",
            "caller": {"org_id": bytes(15) + b"\x07", "token_id": bytes(15) + b"\x08", "agent_id": None},
            "summary": {"usage": {"input_tokens": 9}},
            "a_field_of_a_later_version": [1, 2, 3],
        },
    ]
)


def test_every_field_survives() -> None:
    """The decoded exchange is equal, times to the microsecond."""
    exchange = new_exchange()
    assert decode(encode(exchange)) == exchange


def test_an_aggregate_keeps_its_number_of_refusals() -> None:
    """Bytes from before the field count as one refusal."""
    many = replace(_BARE, repeated=1_000)
    assert decode(encode(many)) == many
    assert decode(_WRITTEN_BY_VERSION_1).repeated == 1


def test_absent_parts_of_a_refusal_stay_absent() -> None:
    """None stays None."""
    assert decode(encode(_BARE)) == _BARE


def test_bytes_of_other_versions_of_ibex_are_read() -> None:
    """Absent fields take their defaults, and unknown fields are ignored."""
    assert decode(_WRITTEN_BY_VERSION_1) == _BARE


def test_caller_and_operation_survive() -> None:
    """Bytes from before these fields contain neither."""
    own = replace(_BARE, caller=Caller(UUID(int=7), UUID(int=8), user_id=UUID(int=9)), operation="embeddings")
    assert decode(encode(own)) == own
    before = decode(_WRITTEN_BY_VERSION_1)
    assert (before.operation, before.caller and before.caller.user_id) == ("", None)


def test_an_unsupported_format_version_is_rejected() -> None:
    """The error contains the version."""
    with pytest.raises(UnreadableExchangeError, match="version 2"):
        decode(msgspec.msgpack.encode([2, {}]))


@pytest.mark.parametrize("damaged", [b"", b"\xc1", encode(new_exchange())[:-3], msgspec.msgpack.encode([1, {"id": 1}])])
def test_damaged_bytes_are_rejected(damaged: bytes) -> None:
    """Every kind of damage raises the same error."""
    with pytest.raises(UnreadableExchangeError):
        decode(damaged)


def test_the_error_of_an_unreadable_exchange_does_not_quote_it() -> None:
    """The error contains none of its bytes."""
    damaged = encode(new_exchange(model="canary-model")).replace(b"requested_at", b"REQUESTED_AT")
    with pytest.raises(UnreadableExchangeError) as caught:
        decode(damaged)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_error_code_survives() -> None:
    """A code is encoded as its public name."""
    for code in ErrorCode:
        assert decode(encode(replace(_BARE, error_code=code))).error_code is code
