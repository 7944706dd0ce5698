"""The contract of ``SessionStore`` and of the ``SessionHistory`` over it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.memory.identity import InMemoryIdentity
from harness.memory.sessions import InMemorySessions
from harness.tenants import attach, later, new_agent
from harness.turns import new_turn, session_of
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.adapters.system.clock import SystemClock
from ibex.domain.record.history import SessionRecord, TurnRecord
from ibex.domain.record.received_responses import ReceivedResponse
from ibex.domain.record.sessions import SessionStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.identity.management import IdentityStore
    from ibex.domain.record.sessions import Checkpoint

    Store = InMemorySessions | PostgresSessions
    Stores = tuple[IdentityStore, Store]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """An empty identity store, to put agents into, and an empty session store."""
    if request.param == "memory":
        yield InMemoryIdentity(), InMemorySessions(SystemClock())
        return
    postgres = request.getfixturevalue("postgres")
    auth, app = Database(postgres.auth_url, AUTH_ROLE), Database(postgres.app_url, APP_ROLE)
    await auth.open()
    await app.open()
    yield PostgresIdentity(auth), PostgresSessions(app)
    await app.close()
    await auth.close()


def _recorded(turn: Checkpoint, turn_index: int) -> TurnRecord:
    return TurnRecord(
        id=turn.id,
        turn_index=turn_index,
        request_id=turn.request_id,
        token_id=turn.token_id,
        user_id=turn.user_id,
        operation=turn.operation,
        messages_hash=turn.messages_hash,
        completion_hash=turn.completion_hash,
        input_tokens=turn.input_tokens,
        output_tokens=turn.output_tokens,
        model=turn.model,
        provider=turn.provider,
        latency_ms=turn.latency_ms,
        provider_request_id=turn.provider_request_id,
        is_streaming=turn.is_streaming,
        is_complete=turn.is_complete,
        created_at=turn.created_at,
        response_id=turn.response_id,
        directive_version_id=turn.directive_version_id,
    )


async def _only_session(store: Store, turn: Checkpoint) -> SessionRecord:
    sessions = await store.sessions(turn.org_id, 10)
    assert [session.id for session in sessions] == [session_of(turn)]
    return sessions[0]


async def test_the_first_turn_opens_its_session(stores: Stores) -> None:
    """The session has the model, provider, totals and times of the turn. The turn has index 0."""
    identity, store = stores
    agent = await attach(identity)
    turn = new_turn(agent, "chat:1")
    await store.append([turn])
    assert await _only_session(store, turn) == SessionRecord(
        id=session_of(turn),
        handle="chat:1",
        agent_id=agent.id,
        status=SessionStatus.ACTIVE,
        model="gpt-test",
        provider="openai",
        turn_count=1,
        total_input_tokens=10,
        total_output_tokens=5,
        total_latency_ms=120,
        created_at=turn.created_at,
        updated_at=turn.created_at,
    )
    assert await store.turns(agent.org_id, session_of(turn)) == [_recorded(turn, 0)]


async def test_turns_are_numbered_in_order_of_arrival(stores: Stores) -> None:
    """Indices continue across batches, and totals add up.

    The session keeps the model and provider of its first turn.
    """
    identity, store = stores
    agent = await attach(identity)
    turns = [new_turn(agent, model=f"gpt-{n}", provider=f"p{n}", latency_ms=n) for n in range(5)]
    await store.append(turns[:2])
    await store.append(turns[2:])
    session = await _only_session(store, turns[0])
    assert (session.turn_count, session.total_input_tokens, session.total_output_tokens) == (5, 50, 25)
    assert session.total_latency_ms == 10
    assert (session.model, session.provider) == ("gpt-0", "p0")
    assert (session.created_at, session.updated_at) == (turns[0].created_at, turns[4].created_at)
    recorded = await store.turns(agent.org_id, session.id)
    assert recorded == [_recorded(turn, index) for index, turn in enumerate(turns)]


async def test_unknown_fields_of_a_turn_stay_unknown(stores: Stores) -> None:
    """Unknown token counts add nothing to the totals."""
    identity, store = stores
    agent = await attach(identity)
    turn = new_turn(
        agent,
        completion_hash=None,
        input_tokens=None,
        output_tokens=None,
        provider_request_id=None,
        is_streaming=True,
        is_complete=False,
    )
    await store.append([turn])
    assert await store.turns(agent.org_id, session_of(turn)) == [_recorded(turn, 0)]
    session = await _only_session(store, turn)
    assert (session.total_input_tokens, session.total_output_tokens) == (0, 0)


async def test_a_repeated_batch_has_no_effect(stores: Stores) -> None:
    """The store is idempotent by checkpoint id: for a whole batch, among new turns, and within one batch."""
    identity, store = stores
    agent = await attach(identity)
    first, second, third = (new_turn(agent) for _ in range(3))
    await store.append([first, second])
    before = await _only_session(store, first)
    await store.append([first, second])
    assert await _only_session(store, first) == before
    await store.append([second, third, first, third])
    session = await _only_session(store, first)
    assert (session.turn_count, session.total_input_tokens) == (3, 30)
    recorded = await store.turns(agent.org_id, session.id)
    assert [(turn.id, turn.turn_index) for turn in recorded] == [(first.id, 0), (second.id, 1), (third.id, 2)]


async def test_an_ending_turn_completes_its_session(stores: Stores) -> None:
    """The ending turn may have any place in its batch. A later turn is recorded and does not reopen the session."""
    identity, store = stores
    agent = await attach(identity)
    first = new_turn(agent)
    await store.append([first])
    await store.append([new_turn(agent, ends=True), new_turn(agent)])
    assert (await _only_session(store, first)).status is SessionStatus.COMPLETED
    await store.append([new_turn(agent)])
    session = await _only_session(store, first)
    assert (session.status, session.turn_count) == (SessionStatus.COMPLETED, 4)


async def test_a_session_may_end_with_its_first_turn(stores: Stores) -> None:
    """The session is completed from the start."""
    identity, store = stores
    turn = new_turn(await attach(identity), ends=True)
    await store.append([turn])
    assert (await _only_session(store, turn)).status is SessionStatus.COMPLETED


async def test_sessions_in_one_batch_are_separate(stores: Stores) -> None:
    """A batch may mix sessions, agents and organizations. Each session has its own numbering and totals."""
    identity, store = stores
    ours, theirs = await attach(identity), await attach(identity)
    sibling = new_agent(ours.org_id)
    await identity.add_agent(sibling)
    owners = [(ours, "x"), (theirs, "x"), (ours, "y"), (sibling, "x")]
    turns = [new_turn(*owner) for _ in range(3) for owner in owners]
    await store.append(turns)
    for position, (agent, handle) in enumerate(owners):
        own = turns[position :: len(owners)]
        recorded = await store.turns(agent.org_id, session_of(own[0]))
        assert recorded == [_recorded(turn, index) for index, turn in enumerate(own)], handle
    assert len(await store.sessions(ours.org_id, 10)) == 3
    assert len(await store.sessions(theirs.org_id, 10)) == 1


async def test_a_duplicate_request_id_loses_no_turn(stores: Stores) -> None:
    """Clients may reuse an id within a batch, in another session or later.

    The later turn gets its own id as request id.
    """
    identity, store = stores
    agent, other = await attach(identity), await attach(identity)
    request_id = uuid4()
    first, second, third = (new_turn(agent, handle, request_id=request_id) for handle in ("x", "x", "y"))
    foreign = new_turn(other, request_id=request_id)
    await store.append([first, second])
    await store.append([third, foreign, second])
    kept = [
        turn.request_id
        for checkpoint in (first, third, foreign)
        for turn in await store.turns(checkpoint.org_id, session_of(checkpoint))
    ]
    assert kept == [request_id, second.id, third.id, request_id]


async def test_text_that_postgres_cannot_store_loses_no_turn(stores: Stores) -> None:
    """A NUL or a lone surrogate in a text loses neither its turn nor the rest of the batch."""
    identity, store = stores
    agent = await attach(identity)
    odd = new_turn(agent, model="gpt-\x00\ud800-x", provider_request_id="r\x00\udfff")
    await store.append([odd, new_turn(agent)])
    recorded = await store.turns(agent.org_id, session_of(odd))
    assert [turn.id for turn in recorded][:1] == [odd.id]
    assert len(recorded) == 2
    assert recorded[0].model.startswith("gpt-")


async def test_sessions_are_listed_by_last_use(stores: Stores) -> None:
    """The latest comes first, up to the limit. The list contains only the organization's own sessions."""
    identity, store = stores
    agent, other = await attach(identity), await attach(identity)
    await store.append([new_turn(agent, "a"), new_turn(agent, "b"), new_turn(agent, "c"), new_turn(other, "d")])
    await store.append([new_turn(agent, "a")])
    assert [session.handle for session in await store.sessions(agent.org_id, 10)] == ["a", "c", "b"]
    assert [session.handle for session in await store.sessions(agent.org_id, 2)] == ["a", "c"]
    assert await store.sessions(uuid4(), 10) == []


async def test_a_late_turn_does_not_move_updated_at_back(stores: Stores) -> None:
    """``updated_at`` is the latest turn's time, in any order of arrival."""
    identity, store = stores
    agent = await attach(identity)
    turn = new_turn(agent, created_at=later() + timedelta(minutes=1))
    await store.append([turn])
    await store.append([new_turn(agent)])
    assert (await _only_session(store, turn)).updated_at == turn.created_at


async def test_a_session_is_found_by_id_or_handle(stores: Stores) -> None:
    """An id takes precedence over an equal handle. Of several sessions with one handle, the latest is found."""
    identity, store = stores
    agent = await attach(identity)
    sibling, other = new_agent(agent.org_id), await attach(identity)
    await identity.add_agent(sibling)
    first, second = new_turn(agent, "chat"), new_turn(sibling, "chat")
    disguised = new_turn(agent, str(session_of(first)))
    await store.append([first, second, disguised, new_turn(other, "chat")])
    found = [
        await store.find(agent.org_id, name)
        for name in (str(session_of(first)), "chat", str(session_of(disguised)), "unknown", str(uuid4()))
    ]
    ids = [session.id if session else None for session in found]
    assert ids == [session_of(first), session_of(second), session_of(disguised), None, None]


async def test_the_handles_of_several_sessions_are_found_by_id(stores: Stores) -> None:
    """Unknown sessions and those of another organization are omitted."""
    identity, store = stores
    ours, theirs = await attach(identity), await attach(identity)
    first, second, third, foreign = (
        new_turn(agent, handle) for agent, handle in ((ours, "a"), (ours, "b"), (ours, "c"), (theirs, "d"))
    )
    await store.append([first, second, third, foreign])
    wanted = [session_of(first), session_of(second), session_of(foreign), uuid4()]
    assert await store.handles(ours.org_id, wanted) == {session_of(first): "a", session_of(second): "b"}
    assert await store.handles(ours.org_id, []) == {}


async def test_a_session_of_another_organization_is_not_found(stores: Stores) -> None:
    """Its turns are not found either, even with the right id."""
    identity, store = stores
    ours, theirs = await attach(identity), await attach(identity)
    turn = new_turn(theirs)
    await store.append([turn])
    assert await store.find(ours.org_id, str(session_of(turn))) is None
    assert await store.turns(ours.org_id, session_of(turn)) == []


async def test_an_empty_batch_has_no_effect(stores: Stores) -> None:
    """It raises no error and creates no session."""
    identity, store = stores
    agent = await attach(identity)
    await store.append([])
    assert await store.sessions(agent.org_id, 10) == []


async def test_concurrent_overlapping_batches_count_each_turn_once(stores: Stores) -> None:
    """Several writers share sessions. Indices have no gaps."""
    identity, store = stores
    agent = await attach(identity)
    turns = [new_turn(agent, f"s{n % 3}", request_id=uuid4()) for n in range(30)]
    batches = [turns[start : start + 20] for start in (0, 10, 5, 0)] + [turns[::-1]]
    await asyncio.gather(*(store.append(batch) for batch in batches))
    for first in turns[:3]:
        recorded = await store.turns(agent.org_id, session_of(first))
        assert [turn.turn_index for turn in recorded] == list(range(10))
        assert {turn.id for turn in recorded} == {turn.id for turn in turns if turn.session == first.session}
    assert sum(session.turn_count for session in await store.sessions(agent.org_id, 10)) == 30


async def test_a_recorded_response_is_found_by_its_id(stores: Stores) -> None:
    """Only its organization finds it. The agent, the session and the provider are those of the turn."""
    identity, store = stores
    agent, other = await attach(identity), await attach(identity)
    turn = new_turn(agent, "chat:1", response_id="resp_1")
    await store.append([turn, new_turn(agent)])

    expected = ReceivedResponse("resp_1", agent.org_id, agent.id, "chat:1", "openai", None)
    assert await store.received(agent.org_id, "resp_1") == expected
    assert await store.received(agent.org_id, "resp_2") is None
    assert await store.received(other.org_id, "resp_1") is None
