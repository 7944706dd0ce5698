"""The change log contains every change that invalidates cached entries, even if the server stops or crashes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from harness.tenants import attach, later, new_agent, new_draft, new_token
from harness.turns import new_turn
from ibex.adapters.postgres.change_log import PostgresChangeLog
from ibex.adapters.postgres.directives import PostgresDirectives
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.sessions import PostgresSessions
from ibex.domain.errors import NotFoundError
from ibex.domain.freshness.change_log import Change, ChangeLogUnavailableError
from ibex.domain.freshness.kinds import Kind
from ibex.domain.freshness.token_filter import TokensUnavailableError
from ibex.domain.identity.management import OrganizationStatus
from ibex.domain.identity.model import AgentStatus

if TYPE_CHECKING:
    from uuid import UUID

    from harness.postgres import PostgresDatabase
    from ibex.adapters.postgres.database import Database

pytestmark = pytest.mark.integration


class Reader:
    """Follows the log, as the watch does."""

    def __init__(self, auth: Database) -> None:
        self.log = PostgresChangeLog(auth, timeout_s=30)  # no test is about the timeout
        self.position: str | None = None

    async def new(self) -> list[Change] | None:
        """Return the changes since the last call; None if the reader cannot resume."""
        read = await self.log.read(self.position)
        self.position = read.position
        return None if read.changes is None else sorted(read.changes, key=str)


@pytest.fixture
async def reader(auth: Database) -> Reader:
    """A reader that has a position."""
    reader = Reader(auth)
    assert await reader.new() is None
    return reader


@pytest.fixture
def identity(auth: Database) -> PostgresIdentity:
    """The identity store."""
    return PostgresIdentity(auth)


async def test_changes_of_identity_are_logged(identity: PostgresIdentity, reader: Reader) -> None:
    """Changes of tokens and of their organization concern tokens; an agent and its status concern agents."""
    agent = await attach(identity)
    assert await reader.new() == [Change(agent.org_id, Kind.AGENTS)]
    token = new_token(agent.org_id)
    await identity.add_token(token)
    assert await reader.new() == [Change(agent.org_id, Kind.TOKENS, token.id)]
    await identity.revoke_token(token.org_id, token.id, later())
    assert await reader.new() == [Change(agent.org_id, Kind.TOKENS)]
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    assert await reader.new() == [Change(agent.org_id, Kind.AGENTS)]
    await identity.set_organization_status(agent.org_id, OrganizationStatus.SUSPENDED)
    assert await reader.new() == [Change(agent.org_id, Kind.TOKENS)]
    await identity.set_organization_rate_limit(agent.org_id, 5)
    assert await reader.new() == [Change(agent.org_id, Kind.TOKENS)]


async def test_changes_of_directives_are_logged(identity: PostgresIdentity, app: Database, reader: Reader) -> None:
    """This covers the first version (its absence is cached too), later ones, a rollback and a deactivation."""
    agent, store = await attach(identity), PostgresDirectives(app)
    await reader.new()
    of = (agent.org_id, agent.id)
    for change in (
        store.add_version(*of, new_draft(), None),
        store.add_version(*of, new_draft(), None),
        store.activate(*of, 1),
        store.deactivate(*of),
    ):
        await change
        assert set(await reader.new() or ()) == {Change(agent.org_id, Kind.DIRECTIVES)}


async def test_a_change_without_effect_is_not_logged(identity: PostgresIdentity, app: Database, reader: Reader) -> None:
    """A change without effect, or one that fails, leaves no row: change and log row are one transaction."""
    agent, store = await attach(identity), PostgresDirectives(app)
    await reader.new()
    await identity.revoke_token(agent.org_id, uuid4(), later())
    await store.activate(agent.org_id, agent.id, 7)
    await store.add_version(agent.org_id, new_agent(agent.org_id).id, new_draft(), None)
    with pytest.raises(NotFoundError):
        await identity.add_token(new_token(agent.org_id, agent_id=uuid4()))
    await PostgresSessions(app).append([new_turn(agent)])
    assert await reader.new() == []


@pytest.mark.parametrize(
    ("statement", "is_live_again"),
    [
        ("UPDATE tokens SET revoked_at = NULL WHERE id = %s", True),
        ("UPDATE tokens SET expires_at = now() + interval '1 day' WHERE id = %s", False),
        ("DELETE FROM tokens WHERE id = %s", False),
    ],
)
async def test_a_change_that_is_made_by_sql_is_logged(
    postgres: PostgresDatabase,
    identity: PostgresIdentity,
    reader: Reader,
    statement: str,
    is_live_again: bool,  # noqa: FBT001 - a parameter
) -> None:
    """A token that becomes live again is named, because the workers' filters must contain it."""
    agent = await attach(identity)
    token = new_token(agent.org_id)
    await identity.add_token(token)
    await identity.revoke_token(agent.org_id, token.id, later())
    await reader.new()
    with psycopg.connect(postgres.superuser_url) as connection:
        connection.execute(statement.encode(), [token.id])
    assert await reader.new() == [Change(agent.org_id, Kind.TOKENS, token.id if is_live_again else None)]


async def test_a_temporary_table_does_not_swallow_a_change(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """The triggers name their schema, so that no other table hides the log."""
    agent = await attach(identity)
    await reader.new()
    with psycopg.connect(postgres.auth_url) as connection:
        connection.execute("CREATE TEMP TABLE changes (org_id uuid, kind text)")
        connection.execute("UPDATE agents SET status = 'archived' WHERE id = %s", [agent.id])
    assert await reader.new() == [Change(agent.org_id, Kind.AGENTS)]


async def test_a_change_that_commits_late_is_not_missed(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """It began before changes that were read long ago, and its row has the lower number."""
    agent = await attach(identity)
    await reader.new()
    with psycopg.connect(postgres.auth_url) as slow:
        slow.execute("UPDATE agents SET status = 'archived' WHERE id = %s", [agent.id])
        await identity.set_organization_status(agent.org_id, OrganizationStatus.SUSPENDED)
        assert await reader.new() == [Change(agent.org_id, Kind.TOKENS)]
        assert await reader.new() == []
    assert await reader.new() == [Change(agent.org_id, Kind.AGENTS)]
    assert await reader.new() == []


async def test_a_change_that_is_rolled_back_is_never_returned(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """Nothing has changed."""
    agent = await attach(identity)
    await reader.new()
    with psycopg.connect(postgres.auth_url) as aborted:
        aborted.execute("UPDATE agents SET status = 'archived' WHERE id = %s", [agent.id])
        aborted.rollback()
    assert await reader.new() == []


async def test_a_reader_can_resume_after_a_clean_restart(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """No change is lost."""
    agent = await attach(identity)
    await reader.new()
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    postgres.server.restart()
    assert await reader.new() == [Change(agent.org_id, Kind.AGENTS)]


async def test_a_crash_starts_another_incarnation(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """Transaction ids may be used again, so that a reader cannot resume from an earlier position."""
    agent = await attach(identity)
    await reader.new()
    postgres.server.restart(immediate=True)
    assert await reader.new() is None
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    assert await reader.new() == [Change(agent.org_id, Kind.AGENTS)]


async def _prune(log: PostgresChangeLog, times: int = 2) -> None:
    for _ in range(times):
        await log.prune(horizon_s=0)


def _rows(postgres: PostgresDatabase) -> int:
    with psycopg.connect(postgres.superuser_url) as connection:
        row = connection.execute("SELECT count(*) FROM changes").fetchone()
    assert row is not None
    return int(row[0])


async def test_pruning_deletes_old_changes_and_ends_resumption(
    postgres: PostgresDatabase, auth: Database, identity: PostgresIdentity, reader: Reader
) -> None:
    """A reader that was away cannot resume; one that kept reading can."""
    agent = await attach(identity)
    away = Reader(auth)
    await away.new()
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.PAUSED)
    await _prune(reader.log)
    assert _rows(postgres) == 0
    assert await away.new() is None
    await reader.new()
    await identity.set_agent_status(agent.org_id, agent.id, AgentStatus.ACTIVE)
    assert await reader.new() == [Change(agent.org_id, Kind.AGENTS)]
    assert await away.new() == [Change(agent.org_id, Kind.AGENTS)]


async def test_pruning_keeps_changes_that_were_not_visible(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """No reader has seen a transaction that was running when the snapshot was taken."""
    agent = await attach(identity)
    with psycopg.connect(postgres.auth_url) as slow:
        slow.execute("UPDATE agents SET status = 'archived' WHERE id = %s", [agent.id])
        await _prune(reader.log, 1)
    await _prune(reader.log, 1)
    assert _rows(postgres) == 1


async def test_pruning_with_a_horizon_of_an_hour_keeps_an_hour(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """A reader can resume from any position of the last hour."""
    await attach(identity)
    rows = _rows(postgres)
    for _ in range(3):
        await reader.log.prune()
    assert _rows(postgres) == rows > 0
    assert await reader.new() is not None


async def test_a_server_that_is_down_is_an_unavailable_log(postgres: PostgresDatabase, reader: Reader) -> None:
    """This covers each method. The log can be read again when the server is back."""
    postgres.server.stop()
    with pytest.raises(ChangeLogUnavailableError):
        await reader.new()
    with pytest.raises(ChangeLogUnavailableError):
        await reader.log.prune()
    with pytest.raises(TokensUnavailableError):
        await reader.log.count()
    postgres.server.start()
    assert await reader.new() == []


async def test_expired_tokens_are_not_live(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """The filter must not contain them."""
    agent = await attach(identity)
    tokens: list[UUID] = []
    for _ in range(2):
        token = new_token(agent.org_id)
        await identity.add_token(token)
        tokens.append(token.id)
    with psycopg.connect(postgres.superuser_url) as connection:
        connection.execute("UPDATE tokens SET expires_at = now() - interval '1 s' WHERE id = %s", [tokens[0]])
    assert list((await reader.log.page(None, 10)).token_ids) == [tokens[1]]
    assert await reader.log.count() == 1


async def test_a_long_transaction_does_not_prevent_resuming(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """It may be open for longer than the log's horizon. Its changes arrive when it commits."""
    agent = await attach(identity)
    with psycopg.connect(postgres.auth_url) as slow:
        slow.execute("UPDATE agents SET status = 'archived' WHERE id = %s", [agent.id])
        await reader.new()
        await _prune(reader.log)
        assert await reader.new() == []
        await _prune(reader.log)
        assert await reader.new() == []
    assert await reader.new() == [Change(agent.org_id, Kind.AGENTS)]


@pytest.mark.parametrize("position", ["", "none", "a/b", "00000000-0000-0000-0000-000000000000/1:1:", "x" * 4_096])
async def test_a_position_that_is_not_one_of_this_database(reader: Reader, position: str) -> None:
    """A worker that sends such a position starts over instead of failing forever."""
    read = await reader.log.read(position)
    assert read.changes is None
    assert (await reader.log.read(read.position)).changes == []


async def test_a_position_from_another_cluster_s_future(reader: Reader) -> None:
    """A database that was restored from a dump has the incarnation, but not the transaction ids."""
    assert reader.position is not None
    incarnation, _, _ = reader.position.partition("/")
    assert (await reader.log.read(f"{incarnation}/999999999:999999999:")).changes is None


async def test_too_many_changes_end_resumption(
    postgres: PostgresDatabase, identity: PostgresIdentity, reader: Reader
) -> None:
    """The reader starts over. Equal changes count once."""
    agent = await attach(identity)
    await reader.new()
    with psycopg.connect(postgres.superuser_url) as connection:
        for differs in (False, True):
            connection.execute(
                "INSERT INTO changes (org_id, kind, live_token)"
                " SELECT %s, 'tokens', CASE WHEN %s THEN gen_random_uuid() END FROM generate_series(1, 10001)",
                [agent.org_id, differs],
            )
            connection.commit()
            expected = [Change(agent.org_id, Kind.TOKENS)] if not differs else None
            assert await reader.new() == expected
