"""Examinations of real servers: there, not migrated, and not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.auth import Identity, serving
from harness.servers import free_port
from ibex.entrypoints.diagnosis import TIMEOUT_S, Finding, Verdict, diagnose
from ibex.entrypoints.examinations import Surroundings, examinations
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
    around = Surroundings("Start it.", f"http://127.0.0.1:{free_port()}", folder)
    findings = await diagnose(examinations(Settings.load({**own, **environ}), around), timeout_s=timeout_s)
    return {finding.name: finding for finding in findings}


async def test_servers_that_are_there_are_well(
    postgres: PostgresDatabase, clickhouse: ClickHouseDatabase, redis_url: str, tmp_path: Path
) -> None:
    """Each is asked as IBEX asks it; that nobody has bootstrapped is advice."""
    by_name = await found(
        tmp_path,
        IBEX_DATABASE_URL=postgres.app_url,
        IBEX_AUTH_DATABASE_URL=postgres.auth_url,
        IBEX_CLICKHOUSE_URL=clickhouse.url,
        IBEX_REDIS_URL=redis_url,
    )

    assert [by_name[name].verdict.value for name in SERVERS] == ["ok", "advice", "ok", "ok"]
    assert by_name["identity"].said == "there is no organization yet"


async def test_databases_that_are_not_migrated_are_told_as_such(
    empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase, tmp_path: Path
) -> None:
    """With the command that does it."""
    by_name = await found(
        tmp_path,
        IBEX_DATABASE_URL=empty_postgres.app_url,
        IBEX_AUTH_DATABASE_URL=empty_postgres.auth_url,
        IBEX_CLICKHOUSE_URL=empty_clickhouse.url,
    )

    for name in SERVERS[:3]:
        assert by_name[name].verdict.value == "failed"
        assert "`ibex migrate`" in (by_name[name].remedy or "")


async def test_servers_that_are_not_there_are_failures(tmp_path: Path) -> None:
    """Within seconds, and not a word of what an address holds besides the place."""
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
    assert [by_name[name].said for name in SERVERS[:2]] == ["nothing listens there"] * 2
    assert by_name["proxy"].verdict.value == "advice"
    assert PASSWORD not in repr(by_name)


async def test_an_auth_that_refuses_the_service_token_is_not_said_to_be_away(tmp_path: Path) -> None:
    """It runs: what is to be done is another thing."""
    async with serving(await Identity.settled()) as server:
        by_name = await found(
            tmp_path,
            IBEX_AUTH_ADDRESS=f"127.0.0.1:{server.port}",
            IBEX_AUTH_SERVICE_TOKEN="another-token-of-enough-characters!!",
        )

    assert by_name["auth"].said == "Auth refuses the service credential."
    assert by_name["auth"].remedy == "IBEX_AUTH_SERVICE_TOKEN must be the same here and where auth runs."


async def test_a_user_of_redis_that_lacks_a_command_is_told_which(redis_server: RedisServer, tmp_path: Path) -> None:
    """And how the operator allows it; the password is not shown."""
    client = redis_server.client()
    client.acl_setuser("kim", enabled=True, passwords=[f"+{PASSWORD}"], keys=["ibex:*"], categories=["+@all"])
    redis_server.command("ACL", "SETUSER", "kim", "-@scripting", "-@dangerous")
    url = redis_server.url.replace("redis://", f"redis://kim:{PASSWORD}@")
    settings = Settings.load({"IBEX_REDIS_URL": url})
    (redis,) = (one for one in examinations(settings, Surroundings("", None, tmp_path)) if one.name == "Redis")

    (finding,) = await diagnose([redis])

    assert (finding.verdict, finding.said) == (Verdict.FAILED, "its user may not: EVALSHA, EVAL")
    assert finding.remedy == "`ACL SETUSER <user> +evalsha +eval` allows it."
