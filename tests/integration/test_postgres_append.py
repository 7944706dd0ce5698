"""Appending turns of many organizations to PostgreSQL with one statement."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from harness.exchanges import an_exchange
from harness.memory.clock import ManualClock
from harness.memory.journal import InMemoryJournal
from harness.memory.observers import RecordingObserver
from harness.relay import Relay
from harness.tenants import attach, new_agent, new_draft
from harness.turns import new_turn, session_of
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.adapters.postgres.tables import METADATA
from ibex.domain.ids import session_id
from ibex.domain.record.delivery import CheckpointDelivery, DeliverExchanges
from ibex.domain.record.exchange import Caller, SessionRef
from ibex.domain.record.journal import append_and_wait
from ibex.domain.record.sessions import Checkpoint, SinkRefusedError, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.postgres import PostgresDatabase
    from ibex.domain.identity.management import NamedAgent

pytestmark = pytest.mark.integration

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"


@pytest.fixture
def identity(auth: Database) -> PostgresIdentity:
    """The store of agents."""
    return PostgresIdentity(auth)


@pytest.fixture
def store(app: Database) -> PostgresSessions:
    """A worker's session store."""
    return PostgresSessions(app)


@pytest.fixture
async def agents(identity: PostgresIdentity) -> list[NamedAgent]:
    """One agent of each of three organizations, in the order of the organizations' ids."""
    return sorted([await attach(identity) for _ in range(3)], key=lambda agent: agent.org_id)


@contextmanager
def locked(postgres: PostgresDatabase, agent: NamedAgent) -> Iterator[psycopg.Connection[Any]]:
    """Begin to record turns of an organization as an IBEX of before does, in a transaction that the block commits."""
    with psycopg.connect(postgres.app_url) as other:
        other.execute(LOCK, [f"ibex.checkpoints:{agent.org_id}"])
        other.execute("SELECT set_config('app.current_org_id', %s, true)", [str(agent.org_id)])
        yield other


async def visible(store: PostgresSessions, agent: NamedAgent) -> None:
    """Return when the organization has a session."""
    while not await store.sessions(agent.org_id, 1):
        pass


async def test_a_contended_organization_does_not_delay_the_others(
    postgres: PostgresDatabase, store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """They are visible while it waits, and its own turns as soon as the other transaction has ended."""
    before, contended, after = agents
    with locked(postgres, contended) as other:
        append = asyncio.create_task(store.append([new_turn(agent) for agent in (contended, before, after)]))
        await visible(store, before)
        await visible(store, after)
        assert not append.done()
        assert await store.sessions(contended.org_id, 1) == []
        other.commit()
        await append
        assert len(await store.sessions(contended.org_id, 1)) == 1


async def test_contended_organizations_do_not_wait_for_all_of_them(
    postgres: PostgresDatabase, store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """The one that is free first is recorded while the other one is still contended."""
    first, second, free = agents
    with locked(postgres, first) as other, locked(postgres, second) as another:
        append = asyncio.create_task(store.append([new_turn(agent) for agent in (second, first, free)]))
        await visible(store, free)
        other.commit()
        await visible(store, first)
        assert not append.done()
        another.commit()
        await append
    assert len(await store.sessions(second.org_id, 1)) == 1


async def test_a_waiting_append_holds_no_lock(
    postgres: PostgresDatabase, store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """Another worker can record turns of the batch's other organizations while the append waits."""
    contended, ours, _ = agents
    other_worker = Database(postgres.app_url, APP_ROLE)
    await other_worker.open()
    with locked(postgres, contended) as other:
        append = asyncio.create_task(store.append([new_turn(contended), new_turn(ours)]))
        await visible(store, ours)
        await PostgresSessions(other_worker).append([new_turn(ours)])
        assert not append.done()
        other.commit()
        await append
    await other_worker.close()
    assert [session.turn_count for session in await store.sessions(ours.org_id, 1)] == [2]


async def test_an_organization_that_stays_contended_makes_the_batch_wait(
    postgres: PostgresDatabase, store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """The append fails after a timeout and can be repeated: what was recorded is not recorded again."""
    contended, free, _ = agents
    batch = [new_turn(contended), new_turn(free)]
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute("ALTER FUNCTION record_turns SET lock_timeout = '1ms'")
        try:
            with locked(postgres, contended), pytest.raises(SinkUnavailableError):
                await store.append(batch)
        finally:
            superuser.execute("ALTER FUNCTION record_turns RESET lock_timeout")
    assert len(await store.sessions(free.org_id, 1)) == 1
    await store.append(batch)
    for turn in batch:
        assert [recorded.id for recorded in await store.turns(turn.org_id, session_of(turn))] == [turn.id]


async def test_an_older_ibex_can_record_at_the_same_time(
    postgres: PostgresDatabase, store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """It writes its rows as ``ibex_app`` under the same lock. The numbers of turns continue without a gap."""
    ours, free, _ = agents
    turn = new_turn(ours)
    with locked(postgres, ours) as older:
        append = asyncio.create_task(store.append([turn, new_turn(free)]))
        await visible(store, free)
        older.execute(
            "INSERT INTO sessions (id, org_id, agent_id, external_id, status, model, provider, turn_count,"
            " total_input_tokens, total_output_tokens, total_latency_ms, created_at, updated_at)"
            " VALUES (%s, %s, %s, %s, 'active', 'm', 'p', 1, 1, 1, 1, now(), now())"
            " ON CONFLICT (id, org_id) DO UPDATE SET turn_count = sessions.turn_count + 1 RETURNING turn_count",
            [session_of(turn), ours.org_id, ours.id, turn.session.handle],
        )
        older.execute(
            "INSERT INTO checkpoints (id, session_id, org_id, agent_id, turn_index, request_id, messages_hash, model,"
            " provider, latency_ms, is_streaming, is_complete, created_at)"
            " VALUES (%s, %s, %s, %s, 0, %s, repeat('a1', 32), 'm', 'p', 1, false, true, now())",
            [uuid4(), session_of(turn), ours.org_id, ours.id, turn.request_id],
        )
        older.commit()
        await append
    recorded = await store.turns(ours.org_id, session_of(turn))
    assert [(one.turn_index, one.request_id) for one in recorded] == [(0, turn.request_id), (1, turn.id)]


async def test_workers_that_append_the_same_organizations_at_once(
    postgres: PostgresDatabase, store: PostgresSessions, identity: PostgresIdentity
) -> None:
    """Batches overlap, in different orders. Each turn is recorded once; indices have no gaps; totals are right."""
    agents = [await attach(identity) for _ in range(20)]
    turns = [new_turn(agent, f"s{n % 2}") for n in range(8) for agent in agents]
    workers = [Database(postgres.app_url, APP_ROLE) for _ in range(4)]
    for worker in workers:
        await worker.open()
    batches = [turns[:100], turns[60:], turns[::-1], turns[40:] + turns[:80]]
    await asyncio.gather(
        *(PostgresSessions(worker).append(batch) for worker, batch in zip(workers, batches, strict=True))
    )
    for worker in workers:
        await worker.close()
    for agent in agents:
        sessions = await store.sessions(agent.org_id, 10)
        assert [(one.turn_count, one.total_input_tokens, one.total_latency_ms) for one in sessions] == [
            (4, 40, 480)
        ] * 2
        for session in sessions:
            recorded = await store.turns(agent.org_id, session.id)
            assert [turn.turn_index for turn in recorded] == [0, 1, 2, 3]
            assert {turn.id for turn in recorded} == {turn.id for turn in turns if session_of(turn) == session.id}


async def test_more_organizations_than_a_call_takes(
    postgres: PostgresDatabase, app: Database, identity: PostgresIdentity
) -> None:
    """The locks of a call are limited, so a batch takes several calls. No call waits before the others are done."""
    store = PostgresSessions(app, organizations_per_call=2)
    agents = [await attach(identity) for _ in range(5)]
    with locked(postgres, agents[0]) as other:
        append = asyncio.create_task(store.append([new_turn(agent) for agent in agents * 2]))
        for agent in agents[1:]:
            await visible(store, agent)
        other.commit()
        await append
    for agent in agents:
        assert [session.turn_count for session in await store.sessions(agent.org_id, 2)] == [2]


async def test_a_refused_turn_of_one_organization_loses_none_of_another(
    store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """Delivery halves the batch until the refused turn is alone, in the dead letters."""
    poisoned = new_agent(agents[0].org_id)
    journal, observer = InMemoryJournal(), RecordingObserver()
    owners = [*agents, poisoned] * 2
    for position, agent in enumerate(owners):
        await append_and_wait(
            journal,
            an_exchange(
                id=UUID(int=1_000 + position),
                request_id=uuid4(),
                caller=Caller(org_id=agent.org_id, token_id=uuid4(), user_id=None, agent_id=agent.id),
                session=SessionRef(session_id(agent.org_id, agent.id, "a-session"), "a-session"),
                directive=None,
            ),
        )
    delivery = DeliverExchanges(journal, CheckpointDelivery(store), observer, ManualClock(), jitter=lambda: 0.0)
    await delivery.flush()
    for agent in agents:
        assert [session.turn_count for session in await store.sessions(agent.org_id, 2)] == [2]
    assert [exchange.id for _, exchange, _ in journal.dead_lettered] == [UUID(int=1_003), UUID(int=1_007)]


async def test_an_id_of_another_organization_is_refused_and_not_taken_for_recorded(
    store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """A turn counts as recorded only in its own organization. It must not be lost silently."""
    turn = new_turn(agents[0])
    await store.append([turn])
    with pytest.raises(SinkRefusedError, match="pk_checkpoints"):
        await store.append([new_turn(agents[1], id=turn.id)])


async def test_every_field_of_a_checkpoint_is_stored(
    postgres: PostgresDatabase, app: Database, store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """Each field has a value, and each column of the table comes back with it."""
    agent, draft = agents[0], new_draft()
    await PostgresDirectives(app).add_version(agent.org_id, agent.id, draft, None)
    turn = new_turn(agent, is_streaming=True, response_id="resp_1", directive_version_id=draft.id)
    given = {field.name: getattr(turn, field.name) for field in fields(Checkpoint) if field.name != "session"}
    assert None not in given.values()
    await store.append([turn])
    with psycopg.connect(postgres.superuser_url, row_factory=dict_row) as connection:
        stored = connection.execute("SELECT * FROM checkpoints").fetchone()
    assert stored == {**given, "session_id": session_of(turn), "turn_index": 0}


def test_the_function_fills_every_column(postgres: PostgresDatabase) -> None:
    """A migration that adds a column to the tables must replace the function and extend the rights of its role."""
    with psycopg.connect(postgres.superuser_url) as connection:
        source = connection.execute("SELECT prosrc FROM pg_proc WHERE proname = 'record_turns'").fetchone()
        rights = connection.execute(
            "SELECT table_name, column_name FROM information_schema.column_privileges"
            " WHERE grantee = 'ibex_recorder' AND privilege_type = 'INSERT'"
        ).fetchall()
    assert source is not None
    expected = {(name, column.name) for name in ("sessions", "checkpoints") for column in METADATA.tables[name].c}
    never_given = {("sessions", "last_extracted_turn"), ("sessions", "deleted_at")}
    assert set(rights) == expected - never_given
    lists = {line.split("(")[0].strip(): line for line in source[0].splitlines() if "INSERT INTO" in line}
    for table, columns in (("sessions AS s", "sessions"), ("checkpoints", "checkpoints")):
        named = lists[f"INSERT INTO public.{table}"].split("(")[1].rstrip(")").split(", ")
        assert {(columns, name) for name in named} == {one for one in set(rights) if one[0] == columns}


async def test_the_server_commits_without_the_worker(postgres: PostgresDatabase) -> None:
    """A worker that stalls during the statement holds no lock of its organizations afterwards."""
    with Relay.running(postgres.socket) as relay, psycopg.connect(postgres.superuser_url, autocommit=True) as other:
        database = Database(f"postgresql://{APP_ROLE}@127.0.0.1:{relay.port}/{postgres.name}", APP_ROLE)
        await database.open()
        sleeps = f"{LOCK}, pg_sleep(2)"
        statement = asyncio.create_task(database.execute_and_commit(sleeps, ["ibex.checkpoints:slow"]))
        await _until_locked(other, held=True)
        relay.hold_answers()
        await _until_locked(other, held=False)
        assert not statement.done()
        relay.heal()
        await statement
        await database.close()


async def _until_locked(connection: psycopg.Connection, *, held: bool) -> None:
    """Wait until an advisory lock is held, or none is."""
    while bool(_advisory_locks(connection)) is not held:  # noqa: ASYNC110 - PostgreSQL sends no notification
        await asyncio.sleep(0.01)


def _advisory_locks(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchone()
    return 0 if row is None else int(row[0])


async def test_a_cancelled_statement_gives_its_connection_back(postgres: PostgresDatabase) -> None:
    """A pool of one connection works afterwards."""
    database = Database(postgres.app_url, APP_ROLE, pool_size=1)
    await database.open()
    with psycopg.connect(postgres.superuser_url, autocommit=True) as other:
        statement = asyncio.create_task(
            database.execute_and_commit(f"{LOCK}, pg_sleep(60)", ["ibex.checkpoints:cancelled"])
        )
        await _until_locked(other, held=True)
        statement.cancel()
        with pytest.raises(asyncio.CancelledError):
            await statement
        assert _advisory_locks(other) == 0
    await database.ping()
    await database.close()


async def test_a_connection_that_died_in_the_pool_is_replaced(
    postgres: PostgresDatabase, app: Database, store: PostgresSessions, agents: list[NamedAgent]
) -> None:
    """After a restart of the server, an append succeeds without a retry."""
    [(pid,)] = await app.execute_and_commit("SELECT pg_backend_pid()")
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    await store.append([new_turn(agents[0])])
    assert len(await store.sessions(agents[0].org_id, 1)) == 1


async def test_a_database_without_the_function_is_not_migrated(empty_postgres: PostgresDatabase) -> None:
    """The batch waits in the journal until it is."""
    migrate.upgrade(empty_postgres.owner_url, "0009")
    auth, app = Database(empty_postgres.auth_url, AUTH_ROLE), Database(empty_postgres.app_url, APP_ROLE)
    await auth.open()
    await app.open()
    store, turn = PostgresSessions(app), new_turn(await attach(PostgresIdentity(auth)))
    with pytest.raises(SinkUnavailableError, match="has not been migrated"):
        await store.append([turn])
    migrate.upgrade(empty_postgres.owner_url)
    await store.append([turn])
    assert len(await store.sessions(turn.org_id, 1)) == 1
    await app.close()
    await auth.close()
