"""Properties of PostgreSQL's session store only: the sweeper, references and scale."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from harness.tenants import attach, new_agent, new_draft
from harness.turns import new_turn, session_of
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.record.sessions import SessionStatus, SinkRefusedError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.postgres import PostgresDatabase

    Stores = tuple[PostgresIdentity, PostgresDirectives, PostgresSessions]

pytestmark = pytest.mark.integration

LONG_AGO = datetime(2026, 1, 2, 3, tzinfo=UTC)


@pytest.fixture
async def stores(postgres: PostgresDatabase) -> AsyncIterator[Stores]:
    """All three stores on one empty database."""
    auth, app = Database(postgres.auth_url, AUTH_ROLE), Database(postgres.app_url, APP_ROLE)
    await auth.open()
    await app.open()
    yield PostgresIdentity(auth), PostgresDirectives(app), PostgresSessions(app)
    await app.close()
    await auth.close()


async def test_a_turn_revives_an_abandoned_session(postgres: PostgresDatabase, stores: Stores) -> None:
    """The session is active again. A session with an error keeps that status."""
    identity, _, sessions = stores
    agent = await attach(identity)
    for before, after in ((SessionStatus.ABANDONED, SessionStatus.ACTIVE), (SessionStatus.ERROR, SessionStatus.ERROR)):
        turn = new_turn(agent, before.value)
        await sessions.append([turn])
        with psycopg.connect(postgres.superuser_url) as connection:
            connection.execute("UPDATE sessions SET status = %s WHERE id = %s", [before.value, session_of(turn)])
        await sessions.append([new_turn(agent, before.value)])
        found = await sessions.find(agent.org_id, before.value)
        assert found is not None
        assert (found.status, found.turn_count) == (after, 2)


async def test_a_session_keeps_its_completion_time_and_its_directive(
    postgres: PostgresDatabase, stores: Stores
) -> None:
    """It keeps the directive version of its first turn, and the time of its first ending turn."""
    identity, directives, sessions = stores
    agent, drafts = await attach(identity), [new_draft("one"), new_draft("two")]
    for draft in drafts:
        await directives.add_version(agent.org_id, agent.id, draft, None)
    first = new_turn(agent, directive_version_id=drafts[0].id)
    end, late = (new_turn(agent, ends=True, directive_version_id=drafts[1].id) for _ in range(2))
    await sessions.append([first])
    await sessions.append([end])
    await sessions.append([late])
    with psycopg.connect(postgres.superuser_url) as connection:
        found = connection.execute("SELECT directive_version_id, completed_at FROM sessions").fetchone()
    assert found == (drafts[0].id, end.created_at)


async def test_a_turn_of_an_agent_that_is_not_the_organizations_is_refused(stores: Stores) -> None:
    """The whole batch is refused, so that delivery can halve it."""
    identity, _, sessions = stores
    ours, theirs = await attach(identity), await attach(identity)
    good, bad, foreign = new_turn(ours), new_turn(new_agent(ours.org_id), "bad"), new_turn(theirs)
    with pytest.raises(SinkRefusedError, match="fk_sessions_agent_id_org_id"):
        await sessions.append([foreign, good, bad])
    assert await sessions.sessions(ours.org_id, 10) == []
    await sessions.append([foreign, good])
    assert [len(await sessions.sessions(agent.org_id, 10)) for agent in (ours, theirs)] == [1, 1]


async def test_an_error_contains_nothing_of_the_row(stores: Stores) -> None:
    """PostgreSQL quotes the rejected row; the error does not."""
    identity, _, sessions = stores
    turn = new_turn(await attach(identity), "a-handle-to-find", messages_hash="not-a-hash", model="gpt-to-find")
    with pytest.raises(SinkRefusedError) as caught:
        await sessions.append([turn])
    assert "ck_checkpoints_messages_hash" in str(caught.value)
    assert not [word for word in ("a-handle", "gpt-to-find", "not-a-hash", str(turn.id)) if word in str(caught.value)]
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_a_number_that_does_not_fit_is_refused(stores: Stores) -> None:
    """It would be refused every time. Checkpoints that cannot be stored only now are kept and retried."""
    identity, _, sessions = stores
    agent = await attach(identity)
    with pytest.raises(SinkRefusedError, match="NumericValueOutOfRange"):
        await sessions.append([new_turn(agent), new_turn(agent, input_tokens=1 << 40)])
    assert await sessions.sessions(agent.org_id, 10) == []


async def test_a_missing_right_refuses_no_row(postgres: PostgresDatabase, stores: Stores) -> None:
    """A missing right is not caused by a row. The batch waits until the right is back."""
    identity, _, sessions = stores
    agent = await attach(identity)
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION record_turns FROM ibex_app")
        try:
            with pytest.raises(SinkUnavailableError):
                await sessions.append([new_turn(agent)])
        finally:
            connection.execute("GRANT EXECUTE ON FUNCTION record_turns TO ibex_app")
    await sessions.append([new_turn(agent)])


async def test_a_large_batch_is_read_and_checked_by_key(postgres: PostgresDatabase, stores: Stores) -> None:
    """A connection with plans from when the tables were small does not read them whole when they have grown."""
    identity, _, sessions = stores
    agent = await attach(identity)
    for _ in range(8):
        await sessions.append([new_turn(agent)])
    read = (
        "SELECT sum(seq_tup_read) + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes"
        " WHERE relname IN ('sessions', 'checkpoints')) FROM pg_stat_user_tables"
        " WHERE relname IN ('sessions', 'checkpoints')"
    )
    turns = [new_turn(agent, str(n), request_id=uuid4()) for n in range(1_000)]
    await sessions.append(turns)
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_reset()")
        await sessions.append([new_turn(agent, str(n)) for n in range(1_000)])
        await sessions.append([])  # the statistics of a transaction are sent with the next one, or at its end
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(read).fetchone()
    assert row is not None
    assert row[0] < 20_000, "a thousand turns touched far more rows than a few each"


async def test_one_replica_sweeps_at_a_time(postgres: PostgresDatabase, stores: Stores) -> None:
    """A second sweeper returns at once, and does not wait."""
    identity, _, sessions = stores
    await sessions.append([new_turn(await attach(identity), created_at=LONG_AGO)])
    with psycopg.connect(postgres.app_url) as other:
        other.execute("SELECT abandon_idle_sessions('-infinity', 1)")  # the transaction stays open
        assert await sessions.abandon(LONG_AGO + timedelta(days=1), 10) is None
    assert await sessions.abandon(LONG_AGO + timedelta(days=1), 10) == 1


async def test_a_session_that_is_in_use_is_skipped(postgres: PostgresDatabase, stores: Stores) -> None:
    """The sweeper does not wait for a turn that is being recorded, which makes its session active anyway."""
    identity, _, sessions = stores
    agent = await attach(identity)
    used, idle = (new_turn(agent, handle, created_at=LONG_AGO) for handle in ("used", "idle"))
    await sessions.append([used, idle])
    with psycopg.connect(postgres.superuser_url) as other:
        other.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", [session_of(used)])
        assert await sessions.abandon(LONG_AGO + timedelta(days=1), 10) == 1
    found = await sessions.find(agent.org_id, "used")
    assert found is not None
    assert found.status is SessionStatus.ACTIVE


async def test_sweeping_reads_active_sessions_by_index(postgres: PostgresDatabase, stores: Stores) -> None:
    """The sweeper reads no whole table and few rows, even if many sessions have ended."""
    identity, _, sessions = stores
    agent = await attach(identity)
    for first in range(0, 5_000, 500):
        over = [new_turn(agent, str(n), ends=True, created_at=LONG_AGO) for n in range(first, first + 500)]
        await sessions.append(over)
    await sessions.append([new_turn(agent, f"idle {n}", created_at=LONG_AGO) for n in range(50)])

    async with _counting(postgres) as counted:
        swept = [await counted.sessions.abandon(LONG_AGO + timedelta(days=1), 5) for _ in range(8)]

    assert swept == [5] * 8  # a plan is kept after five
    assert counted.whole_tables == 0
    assert 40 <= counted.rows < 1_000, "it reads more than the active sessions and what former sweeps left in the index"


async def test_reading_sessions_reads_no_whole_table(postgres: PostgresDatabase, stores: Stores) -> None:
    """A list, a session by handle or id, and its turns are all found by index."""
    identity, _, sessions = stores
    agent = await attach(identity)
    turns = [new_turn(agent, str(n)) for n in range(1_000)]
    await sessions.append(turns)

    async with _counting(postgres) as counted:
        for name in ("7", str(session_of(turns[8]))):
            found = await counted.sessions.find(agent.org_id, name)
            assert found is not None
            assert len(await counted.sessions.turns(agent.org_id, found.id)) == 1
        assert len(await counted.sessions.sessions(agent.org_id, 10)) == 10

    assert counted.whole_tables == 0
    assert counted.rows > 0


@dataclass(slots=True)
class _Counted:
    """A store on a separate connection, and, once that is closed, the rows read from sessions and checkpoints."""

    sessions: PostgresSessions
    whole_tables: int = -1
    rows: int = -1


@asynccontextmanager
async def _counting(postgres: PostgresDatabase) -> AsyncIterator[_Counted]:
    connected = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ibex_app'"
    read = (
        "SELECT sum(seq_scan), sum(idx_tup_fetch) FROM pg_stat_user_tables WHERE relname IN ('sessions', 'checkpoints')"
    )
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        # Otherwise the plans depend on when autovacuum last ran. If it found the tables empty, the planner expects one
        # row: it may then read all sessions by their primary key for the join with those that it sweeps.
        connection.execute("ANALYZE sessions, checkpoints")
        connection.execute("SELECT pg_stat_reset()")
        before = connection.execute(connected).fetchone()
        database = Database(postgres.app_url, APP_ROLE, pool_size=1)
        await database.open()
        counted = _Counted(PostgresSessions(database))
        yield counted
        await database.close()
        while connection.execute(connected).fetchone() != before:  # reads are reported when a connection is closed
            pass
        row = connection.execute(read).fetchone()
    assert row is not None
    counted.whole_tables, counted.rows = row
