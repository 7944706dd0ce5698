"""USE CASE: follow an organization's traces as they are stored."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.record.history import InsertedTrace, TraceHistory
    from ibex.domain.record.traces import Trace

OVERLAP: Final = timedelta(seconds=5)
"""How far each query goes back: longer than an insert takes to become visible, and than a cluster's clocks differ."""


class TraceFollower:
    """Returns each trace once, in the order of insertion.

    The order of requests would miss traces: a long stream is stored after requests that began later.
    """

    def __init__(self, history: TraceHistory, org_id: UUID) -> None:
        self._history = history
        self._org_id = org_id
        self._since: datetime | None = None
        self._seen: dict[tuple[UUID, int], datetime | None] = {}

    @property
    def remembered(self) -> int:
        """The number of traces that are remembered, so that they are not returned again."""
        return len(self._seen)

    async def begin(self, limit: int) -> Sequence[Trace]:
        """Return the traces of the latest requests, oldest first; ``next`` returns those that are stored later."""
        self._since = await self._history.now() - OVERLAP
        self._take(await self._history.inserted(self._org_id, self._since))
        latest = await self._history.tail(self._org_id, limit)
        for trace in latest:  # a trace that was stored after the query above is returned here, not by ``next``
            self._seen.setdefault((trace.emitter_id, trace.emitter_seq), None)
        return latest

    async def next(self) -> Sequence[Trace]:
        """Return all traces stored since the last call. Raises ``RuntimeError`` before ``begin``."""
        if self._since is None:
            raise RuntimeError("Call begin() before next().")
        return self._take(await self._history.inserted(self._org_id, self._since))

    def _take(self, found: Iterable[InsertedTrace]) -> list[Trace]:
        new, latest = [], self._since
        for one in found:
            key = (one.trace.emitter_id, one.trace.emitter_seq)
            if key not in self._seen:
                new.append(one.trace)
            self._seen[key] = one.inserted_at
            latest = max(latest or one.inserted_at, one.inserted_at - OVERLAP)
        if latest != self._since:
            self._since = latest
            self._seen = {key: at for key, at in self._seen.items() if at is not None and latest and at >= latest}
        return new
