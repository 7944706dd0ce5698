"""Sessions and checkpoints in dictionaries."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ibex.domain.errors import ServiceDegradedError
from ibex.domain.record.history import SessionRecord, TurnRecord
from ibex.domain.record.received_responses import ReceivedResponse
from ibex.domain.record.sessions import SessionStatus, Turn

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.record.sessions import Checkpoint

LEFT_ALONE: Final = timedelta(minutes=1)


class InMemorySessions:
    """An in-memory ``SessionStore``, ``SessionHistory``, ``IdleSessions`` and ``ResponseRecord``.

    A checkpoint whose request id is already used in the organization is stored under its own id instead. While
    ``is_unreadable`` is set, no response is found.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_unreadable = False
        self._clock = clock
        self._sessions: dict[tuple[UUID, UUID], SessionRecord] = {}
        self._turns: dict[tuple[UUID, UUID], list[TurnRecord]] = {}
        self._received: dict[tuple[UUID, str], ReceivedResponse] = {}
        self._ids: set[UUID] = set()
        self._request_ids: set[tuple[UUID, UUID]] = set()

    async def append(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Store checkpoints in order; see ``SessionStore``."""
        for checkpoint in checkpoints:
            if checkpoint.id not in self._ids:
                self._ids.add(checkpoint.id)
                self._add(checkpoint)

    async def sessions(self, org_id: UUID, limit: int) -> Sequence[SessionRecord]:
        """Return the most recently used sessions, latest first."""
        own = (session for (owner, _), session in self._sessions.items() if owner == org_id)
        return sorted(own, key=lambda s: (s.updated_at, s.id), reverse=True)[:limit]

    async def find(self, org_id: UUID, session: str) -> SessionRecord | None:
        """Return the session with this id, or the latest with this handle; None if there is none."""
        own = await self.sessions(org_id, len(self._sessions))
        by_id = (s for s in own if str(s.id) == session.lower())
        return next(by_id, None) or next((s for s in own if s.handle == session), None)

    async def handles(self, org_id: UUID, session_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Return the handles of these sessions by id."""
        own = await self.sessions(org_id, len(self._sessions))
        return {session.id: session.handle for session in own if session.id in session_ids}

    async def turns(self, org_id: UUID, session_id: UUID) -> Sequence[TurnRecord]:
        """Return the turns of a session in their order; empty if the session does not exist."""
        return list(self._turns.get((org_id, session_id), ()))

    async def received(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:
        """Return the response that an agent of the organization received; see ``ResponseRecord``."""
        if self.is_unreadable:
            raise ServiceDegradedError
        return self._received.get((org_id, response_id))

    async def abandon(self, idle_since: datetime, limit: int) -> int | None:
        """Abandon active sessions without a turn since the given time; see ``IdleSessions``."""
        until = min(idle_since, self._clock.now() - LEFT_ALONE)
        active = [(key, s) for key, s in self._sessions.items() if s.status is SessionStatus.ACTIVE]
        idle = sorted((s.created_at, key) for key, s in active if s.updated_at < until)[:limit]
        for _, key in idle:
            self._sessions[key] = replace(self._sessions[key], status=SessionStatus.ABANDONED)
        return len(idle)

    def _add(self, checkpoint: Checkpoint) -> None:
        key = (checkpoint.org_id, checkpoint.session.id)
        self._sessions[key] = _with_turn(self._sessions.get(key) or _opened_by(checkpoint), checkpoint)
        turns = self._turns.setdefault(key, [])
        request_id = checkpoint.request_id
        if (checkpoint.org_id, request_id) in self._request_ids:
            request_id = checkpoint.id
        self._request_ids.add((checkpoint.org_id, request_id))
        turns.append(_turn(checkpoint, len(turns), request_id))
        if checkpoint.response_id is not None:
            self._received[checkpoint.org_id, checkpoint.response_id] = ReceivedResponse(
                checkpoint.response_id,
                checkpoint.org_id,
                checkpoint.agent_id,
                checkpoint.session.handle,
                checkpoint.provider,
                checkpoint.directive_version_id,
            )


def _opened_by(checkpoint: Checkpoint) -> SessionRecord:
    """Return the session that the first turn opens, before that turn is counted."""
    return SessionRecord(
        id=checkpoint.session.id,
        handle=checkpoint.session.handle,
        agent_id=checkpoint.agent_id,
        status=SessionStatus.ACTIVE,
        model=checkpoint.model,
        provider=checkpoint.provider,
        turn_count=0,
        total_input_tokens=0,
        total_output_tokens=0,
        total_latency_ms=0,
        created_at=checkpoint.created_at,
        updated_at=checkpoint.created_at,
    )


def _with_turn(session: SessionRecord, checkpoint: Checkpoint) -> SessionRecord:
    return replace(
        session,
        status=_status_after(session.status, checkpoint),
        turn_count=session.turn_count + 1,
        total_input_tokens=session.total_input_tokens + (checkpoint.input_tokens or 0),
        total_output_tokens=session.total_output_tokens + (checkpoint.output_tokens or 0),
        total_latency_ms=session.total_latency_ms + checkpoint.latency_ms,
        updated_at=max(session.updated_at, checkpoint.created_at),
    )


def _status_after(status: SessionStatus, checkpoint: Checkpoint) -> SessionStatus:
    if checkpoint.session.ends:
        return SessionStatus.COMPLETED
    return SessionStatus.ACTIVE if status is SessionStatus.ABANDONED else status


def _turn(checkpoint: Checkpoint, turn_index: int, request_id: UUID) -> TurnRecord:
    own = {field.name: getattr(checkpoint, field.name) for field in fields(Turn)}
    return TurnRecord(**{**own, "turn_index": turn_index, "request_id": request_id})
