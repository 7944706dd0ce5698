"""Aggregation of many refusals in one exchange."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from harness.chat_scene import AGENT, ORG, OTHER_ORG, TOKEN
from harness.exchanges import a_refusal, an_exchange
from ibex.domain.errors import ErrorCode
from ibex.domain.record.aggregated_refusals import AggregatedRefusals
from ibex.domain.record.exchange import Caller, Exchange

CALLER = Caller(ORG, TOKEN.token_id, AGENT)


def refusal(**changes: Any) -> Exchange:
    """Return a refusal of the organization."""
    return a_refusal(**{"caller": CALLER, "error_code": ErrorCode.VALIDATION_ERROR, **changes})


def test_refusals_of_the_same_organization_and_code_are_aggregated() -> None:
    """Their number is ``repeated``. Taking the aggregates empties them."""
    together = AggregatedRefusals()
    other = Caller(OTHER_ORG, TOKEN.token_id)
    for exchange in [refusal()] * 3 + [refusal(error_code=ErrorCode.RATE_LIMITED)] * 2 + [refusal(caller=other)]:
        together.add(exchange)

    found = {(e.caller and e.caller.org_id, e.error_code): e.repeated for e in together.take()}

    assert found == {
        (ORG, ErrorCode.VALIDATION_ERROR): 3,
        (ORG, ErrorCode.RATE_LIMITED): 2,
        (OTHER_ORG, ErrorCode.VALIDATION_ERROR): 1,
    }
    assert together.take() == []


def test_an_aggregate_is_the_first_refusal_without_the_fields_of_a_single_request() -> None:
    """It spans the time of all refusals, and names the agent only if all have the same."""
    together = AggregatedRefusals()
    first = replace(an_exchange(), error_code=ErrorCode.VALIDATION_ERROR, reached_provider=False, caller=CALLER)
    later = replace(first, id=UUID(int=99), completed_at=first.completed_at + timedelta(milliseconds=900))
    together.add(first)
    together.add(later)

    (found,) = together.take()

    assert (found.id, found.request_id, found.requested_at) == (first.id, first.request_id, first.requested_at)
    assert (found.completed_at, found.repeated, found.caller) == (later.completed_at, 2, CALLER)
    assert (found.session, found.model, found.messages_hash, found.is_streaming) == (None, None, None, False)

    together.add(first)
    together.add(replace(later, caller=replace(CALLER, agent_id=None)))
    (mixed,) = together.take()
    assert mixed.caller == replace(CALLER, agent_id=None)


def test_an_aggregate_names_a_token_only_if_all_refusals_have_it() -> None:
    """Otherwise the record would blame one token for the requests of others."""
    together = AggregatedRefusals()
    own = replace(CALLER, user_id=UUID(int=8))
    together.add(refusal(caller=own))
    together.add(refusal(caller=replace(own, agent_id=UUID(int=9))))
    (of_one_token,) = together.take()
    assert of_one_token.caller == replace(own, agent_id=None)

    together.add(refusal(caller=own))
    together.add(refusal(caller=replace(own, token_id=UUID(int=9))))
    together.add(refusal(caller=own))
    (of_several,) = together.take()
    assert of_several.caller == Caller(ORG, UUID(int=0))
