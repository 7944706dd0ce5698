"""Connections after a fail-over between two real servers, directly and through PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from harness.failover import PostgresPair
from harness.pgbouncer import pgbouncer
from harness.tenants import attach
from harness.turns import new_turn
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.server import DATABASE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.errors import ServiceDegradedError
from ibex.domain.record.sessions import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness.postgres import PostgresDatabase
    from ibex.domain.record.sessions import Checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CONNECTIONS = 8
TRIES = 20
TIMELINE: Final = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
"""Each promotion begins a new timeline."""


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[PostgresPair]:
    """One pair for all tests of the module."""
    with tempfile.TemporaryDirectory(prefix="ibex-pair-") as folder, PostgresPair.running(Path(folder)) as running:
        yield running


@pytest.fixture
def pair(shared_pair: PostgresPair) -> Iterator[PostgresPair]:
    """The pair, whose former primary is a standby again after the test."""
    yield shared_pair
    shared_pair.rebuild()


@pytest.fixture(params=["directly", "through PgBouncer"])
def port(pair: PostgresPair, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port that leads to the primary."""
    if request.param == "directly":
        yield pair.relay.port
        return
    with pgbouncer(request.getfixturevalue("pgbouncer_path"), f"host=127.0.0.1 port={pair.relay.port}") as own:
        yield own


@asynccontextmanager
async def _opened(port: int, role: str) -> AsyncIterator[Database]:
    """Open a database whose pool has several connections, all of which were used."""
    database = Database(f"postgresql://{role}@127.0.0.1:{port}/{DATABASE}", role)
    await database.open()
    barrier = asyncio.Barrier(CONNECTIONS)

    async def use() -> None:
        async with database.transaction():
            await barrier.wait()

    try:
        await asyncio.gather(*(use() for _ in range(CONNECTIONS)))
        yield database
    finally:
        await database.close()


async def _append(sessions: PostgresSessions, turn: Checkpoint) -> int:
    """Record a turn as the delivery does, and return the number of failures before."""
    for failures in range(TRIES):
        try:
            await sessions.append([turn])
        except SinkUnavailableError:
            await asyncio.sleep(0.1)  # the delivery's first delay
        else:
            return failures
    raise AssertionError("the turn was never recorded")


@pytest.mark.parametrize("crashes", [True, False])
async def test_changes_go_to_the_new_primary(pair: PostgresPair, port: int, *, crashes: bool) -> None:
    """Also if the former primary keeps its sessions and is read-only. Each turn is there once."""
    async with _opened(port, AUTH_ROLE) as auth, _opened(port, APP_ROLE) as app:
        agent = await attach(PostgresIdentity(auth))
        sessions = PostgresSessions(app)
        turns = [new_turn(agent) for _ in range(6)]
        for turn in turns[:3]:
            await sessions.append([turn])
        await asyncio.to_thread(pair.fail_over if crashes else pair.fail_over_beside_open_sessions)
        failures = [await _append(sessions, turn) for turn in turns]
        assert failures[1:] == [0] * 5
        assert await _servers(app) == set(pair.primary.run(TIMELINE))
        assert await _servers(auth) == set(pair.primary.run(TIMELINE))  # a pool that only reads
    with psycopg.connect(pair.database.superuser_url) as connection:
        found = connection.execute("SELECT id FROM checkpoints WHERE agent_id = %s", [agent.id]).fetchall()
    assert sorted(found) == sorted((turn.id,) for turn in turns)


async def _servers(database: Database) -> set[object]:
    """Return the timelines of the servers that many transactions at once run on."""

    async def ask() -> object:
        async with database.transaction() as connection:
            return await (await connection.execute(TIMELINE)).fetchone()

    return set(await asyncio.gather(*(ask() for _ in range(CONNECTIONS))))


async def test_a_standby_is_not_used(pair: PostgresPair, port: int) -> None:
    """A read there may lack the newest changes. The error says so. A pooler keeps the connections of its clients."""
    async with _opened(port, AUTH_ROLE) as auth:
        pair.relay.redirect(pair.standby_socket)
        pair.relay.cut()
        pair.relay.heal()
        with pytest.raises(ServiceDegradedError, match="standby"):
            await auth.ping()
        pair.relay.redirect(pair.primary_socket)
        await auth.ping()


async def test_the_primary_of_two_hosts_is_found(pair: PostgresPair) -> None:
    """``target_session_attrs`` skips the standby, which is the first host, and follows a fail-over."""
    url = f"postgresql://{APP_ROLE}@/{DATABASE}?host={pair.hosts}&target_session_attrs=read-write"
    database = Database(url, APP_ROLE)
    await database.open()
    await database.ping()
    await asyncio.to_thread(pair.fail_over)
    await database.ping()
    await database.close()


async def test_all_connections_to_a_hung_server_are_replaced_at_once(postgres: PostgresDatabase) -> None:
    """Otherwise each of them would delay a request until its timeout."""
    database = Database(postgres.app_url, APP_ROLE, pool_size=6, transaction_timeout_s=0.5, pool_timeout_s=2)
    await database.open()
    barrier, pids = asyncio.Barrier(6), set()

    async def use() -> None:
        async with database.transaction() as connection:
            pids.add(connection.info.backend_pid)
            await barrier.wait()

    await asyncio.gather(*(use() for _ in range(6)))
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await database.ping()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await database.close()
    assert len(pids) == 6
