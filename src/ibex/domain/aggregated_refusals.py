"""Aggregation of refusals beyond an organization's limit: one exchange for each organization and code (ADR 0041)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.errors import ErrorCode
    from ibex.domain.exchange import Exchange

FLUSH_INTERVAL_S: Final = 1.0


@dataclass(slots=True)
class _Aggregate:
    first: Exchange
    last: Exchange
    repeated: int = 1
    one_agent: bool = True


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
        found.one_agent = found.one_agent and caller == found.first.caller

    def take(self) -> list[Exchange]:
        """Return one exchange for each organization and code, and clear the aggregates.

        Each is a copy of the first refusal with the completion time of the last one, and without session, model and
        message hash. It names an agent only if all refusals have the same caller. The caller assigns ``emitter_seq``.
        """
        taken, self._aggregates = self._aggregates, {}
        return [_exchange_of(aggregate) for aggregate in taken.values()]


def _exchange_of(aggregate: _Aggregate) -> Exchange:
    first, caller = aggregate.first, aggregate.first.caller
    if caller is not None and not aggregate.one_agent:
        caller = replace(caller, agent_id=None)
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
