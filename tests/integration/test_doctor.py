"""Doctor checks of real servers: running, not migrated, and not running."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from harness.auth import Identity, serving
from harness.servers import free_port
from harness.tenants import new_organization, new_token
from ibex.adapters.postgres import migrate
from ibex.adapters.postgres.database import Database
from ibex.adapters.postgres.identity import PostgresIdentity
from ibex.adapters.postgres.roles import AUTH_ROLE
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.token_hash import TokenPeppers
from ibex.entrypoints.diagnosis import TIMEOUT_S, Finding, Verdict, diagnose
from ibex.entrypoints.doctor_checks import DoctorContext, doctor_checks
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer

pytestmark = pytest.mark.integration

PASSWORD = "canary"
SERVERS = ("PostgreSQL", "identity", "ClickHouse", "Redis")


async def found(folder: Path, timeout_s: float = TIMEOUT_S, **environ: str) -> dict[str, Finding]:
    """Return the findings by name."""
    own = {"IBEX_TOKEN_PEPPERS": "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
    around = DoctorContext("Start it.", f"http://127.0.0.1:{free_port()}", folder)
    findings = await diagnose(doctor_checks(Settings.load({**own, **environ}), around), timeout_s=timeout_s)
    return {finding.name: finding for finding in findings}


async def test_running_servers_pass(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, redis_url: str, tmp_path: Path
) -> None:
    """The checks use the servers as IBEX does. A database without an organization is advice, not a failure."""
    by_name = await found(
        tmp_path,
        IBEX_DATABASE_URL=postgres.app_url,
        IBEX_AUTH_DATABASE_URL=postgres.auth_url,
        IBEX_CLICKHOUSE_URL=clickhouse.url,
        IBEX_REDIS_URL=redis_url,
    )

    assert [by_name[name].verdict.value for name in SERVERS] == ["ok", "advice", "ok", "ok"]
    assert by_name["identity"].message == "there is no organization yet"


async def test_live_tokens_with_a_missing_pepper_are_a_failure(postgres: PostgresDatabase, tmp_path: Path) -> None:
    """The check covers all organizations by key id. It ignores revoked and expired tokens."""
    organization = new_organization()
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    tokens = [new_token(organization.id), new_token(organization.id, expires_at=long_ago), new_token(organization.id)]
    database = Database(postgres.auth_url, AUTH_ROLE)
    await database.open()
    store = PostgresIdentity(database)
    await store.add_organization(organization)
    for token in tokens:
        await store.add_token(token)
    await store.revoke_token(organization.id, tokens[2].id, long_ago)
    await database.close()

    by_name = await found(tmp_path, IBEX_AUTH_DATABASE_URL=postgres.auth_url)

    assert by_name["identity"].verdict is Verdict.FAILED
    assert by_name["identity"].message == (
        "1 live token cannot be verified: IBEX_TOKEN_PEPPERS has no pepper test, only k"
    )


@pytest.mark.parametrize(
    "pepper", ["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
)
async def test_the_token_of_a_folder_with_a_changed_pepper_is_a_failure(
    postgres: PostgresDatabase, tmp_path: Path, pepper: str
) -> None:
    """The key id is unchanged but the pepper is not. Only the check of the token itself detects this."""
    organization, token = new_organization(), PersonalAccessToken.issue(uuid4(), bytes(32))
    peppers = TokenPeppers({"k": bytes(range(32))})
    key_id, digest = peppers.hash(token)
    stored = replace(new_token(organization.id), id=token.token_id, key_id=key_id, digest=digest)
    database = Database(postgres.auth_url, AUTH_ROLE)
    await database.open()
    await PostgresIdentity(database).add_organization(organization)
    await PostgresIdentity(database).add_token(stored)
    await database.close()
    settings = Settings.load({"IBEX_AUTH_DATABASE_URL": postgres.auth_url, "IBEX_TOKEN_PEPPERS": f"k:{pepper}"})
    around = DoctorContext("", None, tmp_path, token=token.reveal())

    findings = await diagnose([one for one in doctor_checks(settings, around) if one.name == "identity"])

    assert token.reveal() not in repr((findings, around))
    (finding,) = findings
    if pepper.startswith("AAEC"):
        assert finding.verdict is Verdict.OK
    else:
        assert finding.verdict is Verdict.FAILED
        assert f"ibex_pat_{token.token_id} cannot be verified" in finding.message


async def test_databases_that_are_not_migrated_are_reported(
    empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase, tmp_path: Path
) -> None:
    """The hint names `ibex migrate`."""
    by_name = await found(
        tmp_path,
        IBEX_DATABASE_URL=empty_postgres.app_url,
        IBEX_AUTH_DATABASE_URL=empty_postgres.auth_url,
        IBEX_CLICKHOUSE_URL=empty_clickhouse.url,
    )

    for name in SERVERS[:3]:
        assert by_name[name].verdict.value == "failed"
        assert "`ibex migrate`" in (by_name[name].hint or "")


async def test_a_database_with_an_older_schema_is_reported_as_not_migrated(
    empty_postgres: PostgresDatabase, tmp_path: Path
) -> None:
    """It lacks the function that records turns."""
    migrate.upgrade(empty_postgres.owner_url, "0009")
    finding = (await found(tmp_path, IBEX_DATABASE_URL=empty_postgres.app_url))["PostgreSQL"]
    assert finding.verdict is Verdict.FAILED
    assert "has not been migrated" in finding.message
    assert "`ibex migrate`" in (finding.hint or "")


async def test_unreachable_servers_are_failures(tmp_path: Path) -> None:
    """The checks fail within seconds. The findings contain no password."""
    place = f"127.0.0.1:{free_port()}"
    by_name = await found(
        tmp_path,
        timeout_s=2.0,
        IBEX_DATABASE_URL=f"postgresql://me:{PASSWORD}@{place}/db",
        IBEX_AUTH_DATABASE_URL=f"postgresql://me:{PASSWORD}@{place}/db",
        IBEX_CLICKHOUSE_URL=f"http://me:{PASSWORD}@{place}/db",
        IBEX_REDIS_URL=f"redis://:{PASSWORD}@{place}",
        IBEX_AUTH_ADDRESS=place,
    )

    assert [by_name[name].verdict.value for name in (*SERVERS, "auth")] == ["failed"] * 5
    assert [by_name[name].message for name in SERVERS[:2]] == ["no server listens at this address"] * 2
    assert by_name["proxy"].verdict.value == "advice"
    assert PASSWORD not in repr(by_name)


async def test_a_refused_service_token_is_not_reported_as_an_outage(tmp_path: Path) -> None:
    """Auth is running, so the hint is about the credential."""
    async with serving(await Identity.settled()) as server:
        by_name = await found(
            tmp_path,
            IBEX_AUTH_ADDRESS=f"127.0.0.1:{server.port}",
            IBEX_AUTH_SERVICE_TOKEN="another-token-of-enough-characters!!",
        )

    assert by_name["auth"].message == "Auth refuses the service credential."
    assert by_name["auth"].hint == "Set IBEX_AUTH_SERVICE_TOKEN to the same value here and on auth."


async def test_commands_that_a_redis_user_may_not_run_are_named(redis_server: RedisServer, tmp_path: Path) -> None:
    """The hint shows how the operator permits them. The finding contains no password."""
    client = redis_server.client()
    client.acl_setuser("kim", enabled=True, passwords=[f"+{PASSWORD}"], keys=["ibex:*"], categories=["+@all"])
    redis_server.command("ACL", "SETUSER", "kim", "-@scripting", "-@dangerous")
    url = redis_server.url.replace("redis://", f"redis://kim:{PASSWORD}@")
    settings = Settings.load({"IBEX_REDIS_URL": url})
    (redis,) = (one for one in doctor_checks(settings, DoctorContext("", None, tmp_path)) if one.name == "Redis")

    (finding,) = await diagnose([redis])

    assert (finding.verdict, finding.message) == (Verdict.FAILED, "the Redis user lacks permission for EVALSHA, EVAL")
    assert finding.hint == "Run `ACL SETUSER <user> +evalsha +eval` on Redis."
