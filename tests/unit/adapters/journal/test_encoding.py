"""The bytes of an exchange in the journal."""

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
# What version 1 wrote of _BARE, field by field; journals on disk hold such bytes, so this never changes.
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


def test_an_exchange_survives_in_every_field() -> None:
    """What is encoded is what is decoded, to the microsecond."""
    exchange = new_exchange()
    assert decode(encode(exchange)) == exchange


def test_refusals_that_were_put_together_keep_their_number() -> None:
    """One exchange that stands for many; bytes of before stand for one."""
    many = replace(_BARE, repeated=1_000)
    assert decode(encode(many)) == many
    assert decode(_WRITTEN_BY_VERSION_1).repeated == 1


def test_a_refused_request_survives_without_what_it_never_had() -> None:
    """Absent parts stay absent."""
    assert decode(encode(_BARE)) == _BARE


def test_bytes_of_an_earlier_or_later_program_are_read() -> None:
    """Absent optional fields take their defaults, unknown fields are passed over."""
    assert decode(_WRITTEN_BY_VERSION_1) == _BARE


def test_whose_request_it_was_and_of_what_kind_survives() -> None:
    """Bytes of before name neither."""
    own = replace(_BARE, caller=Caller(UUID(int=7), UUID(int=8), user_id=UUID(int=9)), operation="embeddings")
    assert decode(encode(own)) == own
    before = decode(_WRITTEN_BY_VERSION_1)
    assert (before.operation, before.caller and before.caller.user_id) == ("", None)


def test_another_version_is_refused_by_name() -> None:
    """A version that this program does not know is not guessed at."""
    with pytest.raises(UnreadableExchangeError, match="version 2"):
        decode(msgspec.msgpack.encode([2, {}]))


@pytest.mark.parametrize("damaged", [b"", b"\xc1", encode(new_exchange())[:-3], msgspec.msgpack.encode([1, {"id": 1}])])
def test_damaged_bytes_are_refused(damaged: bytes) -> None:
    """Damage is one error, whatever it hit."""
    with pytest.raises(UnreadableExchangeError):
        decode(damaged)


def test_an_unreadable_exchange_is_not_quoted() -> None:
    """The error holds nothing of what could not be read."""
    damaged = encode(new_exchange(model="canary-model")).replace(b"requested_at", b"REQUESTED_AT")
    with pytest.raises(UnreadableExchangeError) as caught:
        decode(damaged)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_error_code_survives() -> None:
    """A code is its public name."""
    for code in ErrorCode:
        assert decode(encode(replace(_BARE, error_code=code))).error_code is code
