"""Aggregation of refusals beyond an organization's limit: one exchange for each organization and code (ADR 0041)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

if TYPE_CHECKING:
    from ibex.domain.errors import ErrorCode
    from ibex.domain.record.exchange import Caller, Exchange

FLUSH_INTERVAL_S: Final = 1.0
_SEVERAL_TOKENS: Final = UUID(int=0)


@dataclass(slots=True)
class _Aggregate:
    first: Exchange
    last: Exchange
    repeated: int = 1
    one_agent: bool = True
    one_token: bool = True


class AggregatedRefusals:
    """Aggregates of refused requests by organization and error code."""

    def __init__(self) -> None:
        self._aggregates: dict[tuple[UUID | None, ErrorCode | None], _Aggregate] = {}

    def add(self, exchange: Exchange) -> None:
        """Add one refusal, whose caller must be known."""
        caller = exchange.caller
        key = (caller.org_id if caller is not None else None, exchange.error_code)
        found = self._aggregates.get(key)
        if found is None:
            self._aggregates[key] = _Aggregate(exchange, exchange)
            return
        found.repeated += 1
        found.last = exchange
        first = found.first.caller
        found.one_agent = found.one_agent and caller == first
        found.one_token = found.one_token and _token_of(caller) == _token_of(first)

    def take(self) -> list[Exchange]:
        """Return one exchange for each organization and code, and clear the aggregates.

        Each is a copy of the first refusal with the completion time of the last one, and without session, model and
        message hash. It names an agent only if all refusals have the same caller, and a token and its user only if all
        have the same token; otherwise the token is the nil UUID. The caller assigns ``emitter_seq``.
        """
        taken, self._aggregates = self._aggregates, {}
        return [_exchange_of(aggregate) for aggregate in taken.values()]


def _token_of(caller: Caller | None) -> UUID | None:
    return caller.token_id if caller is not None else None


def _exchange_of(aggregate: _Aggregate) -> Exchange:
    first, caller = aggregate.first, aggregate.first.caller
    if caller is not None and not aggregate.one_agent:
        caller = replace(caller, agent_id=None)
    if caller is not None and not aggregate.one_token:
        caller = replace(caller, token_id=_SEVERAL_TOKENS, user_id=None)
    return replace(
        first,
        caller=caller,
        completed_at=max(first.completed_at, aggregate.last.completed_at),
        session=None,
        model=None,
        is_streaming=False,
        messages_hash=None,
        repeated=aggregate.repeated,
    )
