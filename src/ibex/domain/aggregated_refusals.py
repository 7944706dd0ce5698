"""Refusals beyond an organization's bound, put together: one exchange stands for all of one code (ADR 0041)."""

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
    """Exchanges of refused requests, by organization and code, until they are taken."""

    def __init__(self) -> None:
        self._aggregates: dict[tuple[UUID | None, ErrorCode | None], _Aggregate] = {}

    def add(self, exchange: Exchange) -> None:
        """Add one refusal; it has a caller."""
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
        """Return one exchange for each organization and code, and forget them.

        It is the first one, completed when the last was, without what belongs to one request alone. It names an agent
        if all of the refusals had the same caller. Its number is still to be given.
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
