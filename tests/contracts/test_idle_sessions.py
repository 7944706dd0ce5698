"""The contract of ``IdleSessions``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from harness.memory.identity import InMemoryIdentity
from harness.memory.sessions import InMemorySessions
from harness.tenants import attach
from harness.turns import new_turn, session_of
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.adapters.system.clock import SystemClock
from ibex.domain.record.sessions import SessionStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ibex.domain.identity.management import IdentityStore
    from ibex.domain.record.sessions import Checkpoint

    Store = InMemorySessions | PostgresSessions
    Stores = tuple[IdentityStore, Store]

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


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


async def _status(store: Store, turn: Checkpoint) -> SessionStatus:
    found = await store.find(turn.org_id, str(session_of(turn)))
    assert found is not None
    return found.status


async def test_idle_sessions_of_every_organization_are_abandoned(stores: Stores) -> None:
    """The latest turn counts, to the microsecond. Only the status of the session changes."""
    identity, store = stores
    ours, theirs = await attach(identity), await attach(identity)
    idle = [new_turn(agent, "idle", created_at=NOON - MINUTE) for agent in (ours, theirs)]
    at_that_moment = new_turn(ours, "then", created_at=NOON)
    used_again = [new_turn(ours, "used", created_at=NOON + n * MINUTE) for n in (-60, 1)]
    await store.append([*idle, at_that_moment, *used_again])
    before = await store.find(ours.org_id, "idle")

    assert await store.abandon(NOON, 10) == 2

    assert [await _status(store, turn) for turn in idle] == [SessionStatus.ABANDONED] * 2
    assert await _status(store, at_that_moment) is SessionStatus.ACTIVE
    assert await _status(store, used_again[0]) is SessionStatus.ACTIVE
    after = await store.find(ours.org_id, "idle")
    assert before is not None
    assert after is not None
    assert (after.updated_at, after.turn_count) == (before.updated_at, before.turn_count)
    assert await store.abandon(NOON, 10) == 0


async def test_the_oldest_sessions_are_abandoned_first_up_to_the_limit(stores: Stores) -> None:
    """A caller can process a backlog in batches."""
    identity, store = stores
    agent = await attach(identity)
    turns = [new_turn(agent, f"s{n}", created_at=NOON - n * MINUTE) for n in (1, 5, 3, 4, 2)]
    await store.append(turns)

    counts = [await store.abandon(NOON, 2)]
    active = {turn.session.handle for turn in turns if await _status(store, turn) is SessionStatus.ACTIVE}
    counts += [await store.abandon(NOON, 2) for _ in range(3)]

    assert active == {"s1", "s2", "s3"}
    assert counts == [2, 2, 1, 0]


async def test_a_turn_makes_an_abandoned_session_active_again(stores: Stores) -> None:
    """The numbering of its turns continues, and the session can become idle again."""
    identity, store = stores
    agent = await attach(identity)
    turn = new_turn(agent, created_at=NOON - MINUTE)
    await store.append([turn])
    await store.abandon(NOON, 10)

    await store.append([new_turn(agent, created_at=NOON)])

    assert await _status(store, turn) is SessionStatus.ACTIVE
    assert [recorded.turn_index for recorded in await store.turns(agent.org_id, session_of(turn))] == [0, 1]
    assert await store.abandon(NOON + MINUTE, 10) == 1
    assert await _status(store, turn) is SessionStatus.ABANDONED


async def test_a_turn_that_ends_an_abandoned_session_completes_it(stores: Stores) -> None:
    """The end that the client declares takes precedence over the late turn."""
    identity, store = stores
    agent = await attach(identity)
    turn = new_turn(agent, created_at=NOON - MINUTE)
    await store.append([turn])
    await store.abandon(NOON, 10)

    await store.append([new_turn(agent, ends=True, created_at=NOON)])

    assert await _status(store, turn) is SessionStatus.COMPLETED


async def test_a_completed_session_is_never_abandoned(stores: Stores) -> None:
    """Its age does not matter."""
    identity, store = stores
    turn = new_turn(await attach(identity), ends=True, created_at=NOON - MINUTE)
    await store.append([turn])

    assert await store.abandon(NOON, 10) == 0
    assert await _status(store, turn) is SessionStatus.COMPLETED


async def test_a_session_with_a_recent_turn_is_never_abandoned(stores: Stores) -> None:
    """A caller that passes a time in the future cannot end running sessions."""
    identity, store = stores
    now = datetime.now(UTC)
    turn = new_turn(await attach(identity), created_at=now)
    await store.append([turn])

    assert await store.abandon(now + timedelta(days=1), 10) == 0
    assert await _status(store, turn) is SessionStatus.ACTIVE
