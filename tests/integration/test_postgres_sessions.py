"""What only PostgreSQL's session store has: status by the sweeper, references, scale."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from harness.tenants import new_agent, new_draft, settle_in
from harness.turns import new_turn, session_of
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.sessions import SessionStatus, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.postgres import PostgresDatabase

    Stores = tuple[PostgresIdentity, PostgresDirectives, PostgresSessions]

pytestmark = pytest.mark.integration


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
    """It is not idle any more; one in error stays so."""
    identity, _, sessions = stores
    agent = await settle_in(identity)
    for before, after in ((SessionStatus.ABANDONED, SessionStatus.ACTIVE), (SessionStatus.ERROR, SessionStatus.ERROR)):
        turn = new_turn(agent, before.value)
        await sessions.append([turn])
        with psycopg.connect(postgres.superuser_url) as connection:
            connection.execute("UPDATE sessions SET status = %s WHERE id = %s", [before.value, session_of(turn)])
        await sessions.append([new_turn(agent, before.value)])
        found = await sessions.find(agent.org_id, before.value)
        assert found is not None
        assert (found.status, found.turn_count) == (after, 2)


async def test_a_session_remembers_when_it_was_completed_and_under_which_directive(
    postgres: PostgresDatabase, stores: Stores
) -> None:
    """The first turn's directive version; the first ending turn's time, whatever comes after."""
    identity, directives, sessions = stores
    agent, drafts = await settle_in(identity), [new_draft("one"), new_draft("two")]
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
    """With it all of its organization's batch, so that it can be tried again; other organizations' are stored."""
    identity, _, sessions = stores
    ours, theirs = await settle_in(identity), await settle_in(identity)
    good, bad, foreign = new_turn(ours), new_turn(new_agent(ours.org_id), "bad"), new_turn(theirs)
    with pytest.raises(SinkUnavailableError, match="fk_sessions_agent_id_org_id"):
        await sessions.append([foreign, good, bad])
    assert await sessions.sessions(ours.org_id, 10) == []
    assert len(await sessions.sessions(theirs.org_id, 10)) == 1


async def test_a_failure_says_nothing_of_the_row(stores: Stores) -> None:
    """PostgreSQL quotes the row that it refuses; the error does not."""
    identity, _, sessions = stores
    turn = new_turn(await settle_in(identity), "a-handle-to-find", messages_hash="not-a-hash", model="gpt-to-find")
    with pytest.raises(SinkUnavailableError) as caught:
        await sessions.append([turn])
    assert "ck_checkpoints_messages_hash" in str(caught.value)
    assert not [word for word in ("a-handle", "gpt-to-find", "not-a-hash", str(turn.id)) if word in str(caught.value)]
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_a_large_batch_is_read_and_checked_by_key(postgres: PostgresDatabase, stores: Stores) -> None:
    """A connection that planned while the tables were small does not read them whole when they have grown."""
    identity, _, sessions = stores
    agent = await settle_in(identity)
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
        await sessions.append([])  # the statistics of a transaction are sent with the next or at its end
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(read).fetchone()
    assert row is not None
    assert row[0] < 20_000, "a thousand turns touched far more rows than a few each"
