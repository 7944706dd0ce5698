"""The pool when the server is down, restarted, hung or busy."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import psycopg
import pytest

from harness.tenants import attach, new_draft, new_organization
from harness.turns import new_turn, session_of
from ibex.adapters.postgres.database import COMMIT_TIMEOUT_S, Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.errors import OutcomeUnknownError, ServiceDegradedError
from ibex.domain.freshness.kinds import BOUND_S
from ibex.domain.identity.management import AlreadyExistsError
from ibex.domain.record.sessions import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration


async def test_a_server_that_is_down_is_an_outage_until_it_is_back(
    postgres: PostgresDatabase, auth: Database, app: Database
) -> None:
    """Lookups are degraded and sinks unavailable, never "not found". Afterwards the same objects work."""
    agent = await attach(PostgresIdentity(auth))
    turn = new_turn(agent)
    postgres.server.stop()
    outcomes = await asyncio.gather(
        PostgresIdentity(auth).find_token(uuid4()),
        PostgresIdentity(auth).add_organization(new_organization()),
        PostgresDirectives(app).active(agent.org_id, agent.id),
        PostgresDirectives(app).add_version(agent.org_id, agent.id, new_draft(), None),
        PostgresSessions(app).append([turn]),
        PostgresSessions(app).sessions(agent.org_id, 1),
        app.ping(),
        return_exceptions=True,
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [ServiceDegradedError] * 4 + [SinkUnavailableError] + [ServiceDegradedError] * 2
    postgres.server.start()
    assert await PostgresIdentity(auth).find_agent(agent.org_id, agent.id) is not None
    await PostgresSessions(app).append([turn])
    assert len(await PostgresSessions(app).turns(agent.org_id, session_of(turn))) == 1


async def test_a_restart_between_two_requests_is_not_noticed(
    postgres: PostgresDatabase, auth: Database, app: Database
) -> None:
    """The pool skips connections that died, after a clean stop and after a crash."""
    agent = await attach(PostgresIdentity(auth))
    for immediate in (False, True):
        await asyncio.gather(*(app.ping() for _ in range(20)))  # several connections are in the pool
        postgres.server.restart(immediate=immediate)
        await asyncio.gather(*(PostgresDirectives(app).active(agent.org_id, agent.id) for _ in range(20)))


async def test_a_server_that_is_down_at_start_is_used_later(postgres: PostgresDatabase) -> None:
    """Opening does not fail. The first request after the server's start succeeds."""
    postgres.server.stop()
    database = Database(postgres.app_url, APP_ROLE)
    await database.open()
    postgres.server.start()
    await database.ping()
    await database.close()


async def test_a_transaction_that_was_cut_off_leaves_nothing(
    postgres: PostgresDatabase, auth: Database, app: Database
) -> None:
    """A connection that is lost in the middle rolls back, and the error is an outage."""
    agent = await attach(PostgresIdentity(auth))
    insert = b"INSERT INTO changes (org_id, kind) VALUES (%s, 'directives')"

    async def change() -> None:
        async with app.transaction(agent.org_id) as connection:
            await connection.execute(insert, [agent.org_id])
            with psycopg.connect(postgres.superuser_url) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
            await connection.execute(insert, [agent.org_id])

    with pytest.raises(ServiceDegradedError):
        await change()
    with psycopg.connect(postgres.auth_url) as other:
        assert other.execute("SELECT count(*) FROM changes WHERE kind = 'directives'").fetchone() == (0,)
    await app.ping()


@pytest.fixture
def stopped(postgres: PostgresDatabase) -> Iterator[list[int]]:
    """Processes of the test's own server that must continue afterwards."""
    del postgres
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


async def test_a_server_that_hangs_delays_by_at_most_the_timeout(
    postgres: PostgresDatabase, stopped: list[int]
) -> None:
    """A stopped backend enforces no timeout and answers no cancellation. Its transaction fails, the next one works."""
    database = Database(postgres.app_url, APP_ROLE, pool_size=1, transaction_timeout_s=0.2)
    await database.open()

    async def hang() -> None:
        async with database.transaction() as connection:
            stopped.append(connection.info.backend_pid)
            os.kill(stopped[-1], signal.SIGSTOP)
            await connection.execute("SELECT 1")

    with pytest.raises(ServiceDegradedError):
        await hang()
    await database.ping()
    await database.close()


async def test_a_commit_without_an_answer_has_an_unknown_outcome(
    postgres: PostgresDatabase, auth: Database, app: Database
) -> None:
    """The server is lost during the commit. If it is lost earlier, the change has certainly not been made."""
    agent = await attach(PostgresIdentity(auth))

    async def change(*, gone_before: bool) -> None:
        async with app.transaction(agent.org_id) as connection:
            if not gone_before:
                await connection.execute("SELECT 1")
            with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
                superuser.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
            if gone_before:
                await connection.execute("SELECT 1")

    with pytest.raises(OutcomeUnknownError):
        await change(gone_before=False)
    with pytest.raises(ServiceDegradedError) as raised:
        await change(gone_before=True)
    assert not isinstance(raised.value, OutcomeUnknownError)


async def test_a_commit_that_hangs_has_an_unknown_outcome_in_time(
    postgres: PostgresDatabase, stopped: list[int]
) -> None:
    """The commit has a separate timeout, however long the transaction may take."""
    database = Database(postgres.app_url, APP_ROLE, pool_size=1, transaction_timeout_s=60, commit_timeout_s=0.2)
    await database.open()

    async def hang() -> None:
        async with database.transaction() as connection:
            stopped.append(connection.info.backend_pid)
            os.kill(stopped[-1], signal.SIGSTOP)

    with pytest.raises(OutcomeUnknownError):
        await hang()
    await database.ping()
    await database.close()
    assert COMMIT_TIMEOUT_S < BOUND_S


async def test_a_commit_that_is_refused_was_certainly_not_made(auth: Database) -> None:
    """The server has answered: an error at commit, such as a deferred constraint, leaves no doubt."""

    async def change() -> None:
        async with auth.transaction() as connection:
            await connection.execute("CREATE TEMP TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
            await connection.execute("INSERT INTO once VALUES (1), (1)")

    with pytest.raises(AlreadyExistsError):
        await change()
    await auth.ping()


async def test_a_transaction_can_have_a_shorter_timeout(postgres: PostgresDatabase, stopped: list[int]) -> None:
    """It is shorter than the database's default."""
    database = Database(postgres.app_url, APP_ROLE, pool_size=1, transaction_timeout_s=60, commit_timeout_s=60)
    await database.open()

    async def hang() -> None:
        async with database.transaction(timeout_s=0.2) as connection:
            stopped.append(connection.info.backend_pid)
            os.kill(stopped[-1], signal.SIGSTOP)
            await connection.execute("SELECT 1")

    with pytest.raises(ServiceDegradedError):
        await hang()
    await database.close()


async def test_a_connection_that_hangs_in_the_pool_is_skipped(postgres: PostgresDatabase, stopped: list[int]) -> None:
    """Nothing has been sent on it yet, so another one can take its place."""
    database = Database(postgres.app_url, APP_ROLE, pool_size=1, transaction_timeout_s=0.2)
    await database.open()
    async with database.transaction() as connection:
        stopped.append(connection.info.backend_pid)
    os.kill(stopped[-1], signal.SIGSTOP)
    await database.ping()
    await database.close()


class _Relay:
    """A TCP proxy on loopback in front of the server's Unix socket: a link that can be cut."""

    def __init__(self, postgres: PostgresDatabase) -> None:
        self._parts = urlsplit(postgres.app_url)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._port = 0

    async def open(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close all connections at once and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await asyncio.gather(*self._tasks)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The URL of the TCP proxy."""
        return f"postgresql://{self._parts.username}@127.0.0.1:{self._port}{self._parts.path}"

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = parse_qs(self._parts.query)["host"][0] + "/.s.PGSQL.5432"
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(path)
        self._writers += [writer, upstream_writer]
        for source, target in ((reader, upstream_writer), (upstream_reader, writer)):
            task = asyncio.create_task(_copy(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()


async def test_a_link_that_was_cut_recovers(postgres: PostgresDatabase) -> None:
    """Over TCP too, it is an outage while it is cut, and nothing must be restarted afterwards."""
    relay = _Relay(postgres)
    await relay.open()
    database = Database(relay.url, APP_ROLE)
    await database.open()
    await asyncio.gather(*(database.ping() for _ in range(5)))
    await relay.cut()
    with pytest.raises(ServiceDegradedError):
        await database.ping()
    await relay.open()
    await database.ping()
    await database.close()
    await relay.cut()


async def test_a_full_pool_is_an_outage_for_the_waiting_caller_only(postgres: PostgresDatabase) -> None:
    """A caller that waits longer than the pool's timeout gets the error. The pool is intact afterwards."""
    database = Database(postgres.app_url, APP_ROLE, pool_size=1, pool_timeout_s=1)  # time to connect
    await database.open()
    async with database.transaction():
        with pytest.raises(ServiceDegradedError, match="PoolTimeout"):
            await database.ping()
    await database.ping()
    await database.close()


async def test_a_cancelled_request_gives_its_connection_back(postgres: PostgresDatabase) -> None:
    """A pool of one connection keeps working after any number of disconnects."""
    database = Database(postgres.app_url, APP_ROLE, pool_size=1)
    await database.open()
    for _ in range(5):
        entered = asyncio.Event()

        async def request(entered: asyncio.Event = entered) -> None:
            async with database.transaction() as connection:
                entered.set()
                await connection.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(request())
        await entered.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    await database.ping()
    await database.close()


async def test_a_read_only_server_degrades_changes_and_nothing_else(
    postgres: PostgresDatabase, auth: Database, app: Database
) -> None:
    """This is the state after a fail-over to a standby: lookups answer, a change fails clearly, checkpoints wait."""
    agent = await attach(PostgresIdentity(auth))
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        try:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            postgres.server.restart()
            assert await PostgresIdentity(auth).find_agent(agent.org_id, agent.id) is not None
            with pytest.raises(ServiceDegradedError, match="ReadOnly"):
                await PostgresIdentity(auth).add_organization(new_organization())
            with pytest.raises(SinkUnavailableError, match="ReadOnly"):
                await PostgresSessions(app).append([new_turn(agent)])
        finally:
            with psycopg.connect(postgres.superuser_url, autocommit=True) as other:
                other.execute("SET default_transaction_read_only = off")
                other.execute("ALTER SYSTEM RESET default_transaction_read_only")
            postgres.server.restart()


async def test_a_missing_schema_is_an_outage(empty_postgres: PostgresDatabase) -> None:
    """A process that starts before the migration works once that has run."""
    database = Database(empty_postgres.auth_url, AUTH_ROLE)
    await database.open()
    with pytest.raises(ServiceDegradedError, match="migrated"):
        await PostgresIdentity(database).organizations()
    await database.close()


async def test_a_database_that_is_not_open_is_an_outage(postgres: PostgresDatabase) -> None:
    """Closing twice does nothing."""
    database = Database(postgres.app_url, APP_ROLE)
    with pytest.raises(ServiceDegradedError):
        await database.ping()
    await database.open()
    await database.close()
    await database.close()
    with pytest.raises(ServiceDegradedError):
        await database.ping()


def test_a_database_shows_no_url(postgres: PostgresDatabase) -> None:
    """URLs contain passwords, so the repr must not contain them."""
    assert repr(Database(postgres.app_url, APP_ROLE)) == "<Database as ibex_app>"
