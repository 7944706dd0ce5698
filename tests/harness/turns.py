"""Checkpoints for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from harness.tenants import later
from ibex.domain.ids import session_id
from ibex.domain.record.exchange import SessionRef
from ibex.domain.record.sessions import Checkpoint

if TYPE_CHECKING:
    from ibex.domain.identity.management import NamedAgent


def new_turn(agent: NamedAgent, handle: str = "a-session", *, ends: bool = False, **changes: Any) -> Checkpoint:
    """Return a checkpoint of a session of an agent: 10 tokens in, 5 out, 120 ms."""
    return replace(
        Checkpoint(
            id=uuid4(),
            request_id=uuid4(),
            org_id=agent.org_id,
            agent_id=agent.id,
            token_id=uuid4(),
            user_id=uuid4(),
            operation="chat.completions",
            session=SessionRef(session_id(agent.org_id, agent.id, handle), handle, ends),
            messages_hash="a1" * 32,
            completion_hash="b2" * 32,
            input_tokens=10,
            output_tokens=5,
            model="gpt-test",
            provider="openai",
            directive_version_id=None,
            latency_ms=120,
            provider_request_id="req-1",
            is_streaming=False,
            is_complete=True,
            created_at=later(),
            response_id=None,
        ),
        **changes,
    )


def session_of(turn: Checkpoint) -> UUID:
    """Return the id of a checkpoint's session."""
    return turn.session.id
