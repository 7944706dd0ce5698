"""PostgreSQL behind PgBouncer in transaction mode, which may run each transaction in another session."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import trustme

from harness.pgbouncer import pgbouncer
from harness.servers import free_port
from harness.tenants import attach, new_draft
from harness.turns import new_turn
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.change_log import PostgresChangeLog
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.reachable import connection_failure
from ibex.adapters.postgres.roles import APP_ROLE, AUTH_ROLE
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.errors import ServiceDegradedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness.postgres import PostgresDatabase
    from ibex.adapters.postgres.server import PostgresServer

pytestmark = pytest.mark.integration

TENANTS = 12
SESSIONS = 3
"""Fewer sessions at the server than connections of IBEX, so that each session serves many of them."""


def _server(server: PostgresServer) -> str:
    (directory,) = parse_qs(urlsplit(server.url("any")).query)["host"]
    return f"host={directory}"


def _url(role: str, port: int, database: str, more: str = "") -> str:
    return f"postgresql://{role}@127.0.0.1:{port}/{database}{more}"


@pytest.fixture
def pooler(postgres_server: PostgresServer, pgbouncer_path: str) -> Iterator[int]:
    """PgBouncer before the server of the tests, with few sessions; its port."""
    with pgbouncer(pgbouncer_path, _server(postgres_server), pool_size=SESSIONS) as port:
        yield port


@asynccontextmanager
async def _opened(url: str, role: str) -> AsyncIterator[Database]:
    database = Database(url, role)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def test_all_stores_work_in_changing_sessions(postgres: PostgresDatabase, pooler: int) -> None:
    """No tenant sees another's rows, no statement is left behind, and no change is missed."""
    async with (
        _opened(_url(AUTH_ROLE, pooler, postgres.name), AUTH_ROLE) as auth,
        _opened(_url(APP_ROLE, pooler, postgres.name), APP_ROLE) as app,
    ):
        identity, directives, sessions = PostgresIdentity(auth), PostgresDirectives(app), PostgresSessions(app)
        log = PostgresChangeLog(auth)
        before = await log.read(None)
        agents = [await attach(identity) for _ in range(TENANTS)]

        async def use(number: int) -> None:
            agent = agents[number % TENANTS]
            text = f"directive of {agent.id}"
            await directives.add_version(agent.org_id, agent.id, new_draft(text), None)
            await sessions.append([new_turn(agent), new_turn(agents[(number + 1) % TENANTS])])
            active = await directives.active(agent.org_id, agent.id)
            assert active is not None
            assert active.text == text
            stranger = agents[(number + 1) % TENANTS]
            assert await directives.active(stranger.org_id, agent.id) is None
            assert {one.agent_id for one in await sessions.sessions(agent.org_id, 10)} == {agent.id}

        await asyncio.gather(*(use(number) for number in range(5 * TENANTS)))
        changes = (await log.read(before.position)).changes

    assert changes is not None
    assert {change.org_id for change in changes} == {agent.org_id for agent in agents}
    with psycopg.connect(postgres.superuser_url) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (10 * TENANTS,)


async def test_no_setting_stays_in_a_session_of_the_pooler(postgres: PostgresDatabase, pooler: int) -> None:
    """The next transaction there may be another client's."""
    names = ("TimeZone", "statement_timeout", "enable_seqscan", "idle_in_transaction_session_timeout")
    query = "SELECT name, setting, boot_val FROM pg_settings WHERE name = ANY (%s) OR name = 'app.current_org_id'"
    async with _opened(_url(APP_ROLE, pooler, postgres.name), APP_ROLE) as app:
        async with app.transaction() as connection:
            inside = {row[0]: row[1] for row in await (await connection.execute(query, [list(names)])).fetchall()}
        await asyncio.gather(*(app.ping() for _ in range(20)))
        with psycopg.connect(_url(APP_ROLE, pooler, postgres.name), prepare_threshold=None) as other:
            outside = {row[0]: row[1] for row in other.execute(query, [list(names)])}
    assert inside == {
        "TimeZone": "UTC",
        "statement_timeout": "5000",
        "enable_seqscan": "off",
        "idle_in_transaction_session_timeout": "5000",
    }
    assert outside["statement_timeout"] == outside["idle_in_transaction_session_timeout"] == "0"
    assert outside["enable_seqscan"] == "on"


def test_migrations_run_through_the_pooler(empty_postgres: PostgresDatabase, pooler: int) -> None:
    """They are one transaction, and leave no prepared statement behind."""
    url = _url("ibex_owner", pooler, empty_postgres.name)
    assert migrate.upgrade(url) == migrate.head()
    assert migrate.downgrade(url) is None
    assert migrate.upgrade(url) == migrate.head()


async def test_a_refused_startup_parameter_is_logged(
    postgres: PostgresDatabase, pooler: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the reason at once, and so has the error of a request, instead of a timeout of the pool."""
    url = _url(APP_ROLE, pooler, postgres.name, "?options=-c%20statement_timeout%3D1s")
    reason = "the server, often a pooler, refuses a start-up parameter of the URL"
    with caplog.at_level(logging.WARNING, "ibex.postgres"):
        async with _opened(url, APP_ROLE) as database:
            own = [record.getMessage() for record in caplog.records if record.name == "ibex.postgres"]
            with pytest.raises(ServiceDegradedError, match=reason):
                await database.ping()
    assert own == [f"cannot connect to PostgreSQL as ibex_app: {reason}"]


@pytest.fixture
def password_url(postgres: PostgresDatabase, pgbouncer_path: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a pooler that requires a password, with a wrong one."""
    tmp_path.chmod(0o755)
    users = tmp_path / "users"
    users.write_text('"ibex_app" "right"\n')
    more = ("auth_type = plain", f"auth_file = {users}")
    for folder in tmp_path.parents:
        if os.geteuid() == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    with pgbouncer(pgbouncer_path, _server(postgres.server), *more) as port:
        yield f"postgresql://ibex_app:canary@127.0.0.1:{port}/{postgres.name}"


async def test_a_wrong_password_is_logged(password_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing shows the password."""
    with caplog.at_level(logging.INFO):
        async with _opened(password_url, APP_ROLE):
            pass
    said = [record.getMessage() for record in caplog.records if record.name == "ibex.postgres"]
    assert said == ["cannot connect to PostgreSQL as ibex_app: the server refuses the password"]
    assert "canary" not in caplog.text


async def test_the_primary_among_several_hosts_is_used(postgres: PostgresDatabase, pooler: int) -> None:
    """The first host is down. ``target_session_attrs`` skips servers that are read-only."""
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{pooler}"
    url = f"postgresql://{APP_ROLE}@{hosts}/{postgres.name}?target_session_attrs=read-write"
    async with _opened(url, APP_ROLE) as database:
        await database.ping()


async def test_a_pooler_with_tls_is_verified(postgres: PostgresDatabase, pgbouncer_path: str, tmp_path: Path) -> None:
    """``sslmode=verify-full`` accepts the authority's certificate for this host, and no other."""
    authority, other = trustme.CA(), trustme.CA()
    for name, one in (("root", authority), ("other", other)):
        one.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    if os.geteuid() == 0:
        os.chown(tmp_path / "key.pem", pwd.getpwnam("nobody").pw_uid, -1)
        for folder in (tmp_path, *list(tmp_path.parents)[:-1]):
            folder.chmod(folder.stat().st_mode | 0o011)
    files = (f"client_tls_key_file = {tmp_path}/key.pem", f"client_tls_cert_file = {tmp_path}/cert.pem")
    with pgbouncer(pgbouncer_path, _server(postgres.server), "client_tls_sslmode = require", *files) as port:
        url = _url(APP_ROLE, port, postgres.name)
        verified = f"{url}?sslmode=verify-full&sslrootcert={tmp_path}/"
        async with _opened(f"{verified}root.pem", APP_ROLE) as database:
            await database.ping()
        assert await connection_failure(f"{verified}other.pem") == (
            "the server's certificate is not signed by the root certificate of the URL"
        )
        assert await connection_failure(f"{verified}none.pem") == (
            "the root certificate of the URL (sslrootcert) cannot be read"
        )
        assert await connection_failure(f"{url}?sslmode=disable") == (
            "the server requires TLS; add sslmode=verify-full to the URL"
        )
