"""Preparing what processes need; that they start and end is tests/integration's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from harness.cli_scene import CliScene

BOOTSTRAP = (
    "bootstrap",
    "--org",
    "acme",
    "--admin-email",
    "a@acme.example",
    "--agent",
    "one",
    "--directive",
    "Be brief.",
)


def test_bootstrap_makes_all_that_a_first_request_needs(ibex: CliScene) -> None:
    """Both tokens are shown this once; the directive is in force; a second time is refused."""
    made = ibex.run(*BOOTSTRAP, "--json").json

    assert all(PersonalAccessToken.parse(made[name]) for name in ("agent_token", "admin_token"))
    assert ibex.run("directive", "show", "one", "--json").json["text"] == "Be brief."
    tokens = ibex.run("token", "list", "--json").json
    assert [(t["permissions"], t["agent_id"]) for t in tokens] == [("agent", made["agent_id"]), ("admin", None)]
    assert ibex.run(*BOOTSTRAP).code == 1


def test_serving_needs_servers(ibex: CliScene) -> None:
    """What is missing is named, before anything is opened."""
    for command in ("serve", "migrate"):
        done = ibex.run(command)

        assert done.code == 2
        assert "DATABASE_URL is not set" in done.err


def test_where_nothing_is_named_the_way_to_start_it_all_is_told(ibex: CliScene) -> None:
    """To who runs one worker in development and names no server: `ibex dev` helps nobody else."""
    assert "dev`." in ibex.run("serve").err
    for command in (["serve", "--workers", "2"], ["auth", "serve"], ["migrate"]):
        assert "dev`" not in ibex.run(*command).err
    ibex.environ["IBEX_CLICKHOUSE_URL"] = "http://h"
    assert "dev`" not in ibex.run("serve").err
    ibex.environ |= {"IBEX_CLICKHOUSE_URL": "", "IBEX_ENV": "production", "OPENAI_API_KEY": "sk-x"}
    assert "dev`" not in ibex.run("serve").err


def test_where_something_runs_nobody_is_told_to_start_it(ibex: CliScene) -> None:
    """What is missing is something else."""
    with ibex.home.claim():
        ibex.home.announce("http://127.0.0.1:1", {"IBEX_DATABASE_URL": "postgresql://h"})
        assert "dev`" not in ibex.run("serve").err


def test_several_workers_are_told_all_that_is_missing_at_once(ibex: CliScene) -> None:
    """Whatever one of them could do without."""
    ibex.environ["IBEX_DATABASE_URL"] = "postgresql://h"

    done = ibex.run("serve", "--workers", "2")

    missing = [line.removeprefix("ibex: ").split()[0] for line in done.err.splitlines()[:-1]]
    assert (done.code, missing) == (2, ["IBEX_CLICKHOUSE_URL", "IBEX_AUTH_ADDRESS", "IBEX_REDIS_URL"])
    hint = "Several workers share PostgreSQL, ClickHouse, auth and Redis. Set these, or use one worker."
    assert done.err.splitlines()[-1] == hint


def test_several_workers_cannot_share_an_engine(ibex: CliScene) -> None:
    """It would let one of them in, and the others' traces stay behind."""
    ibex.environ |= {
        "IBEX_DATABASE_URL": "postgresql://h",
        "IBEX_AUTH_ADDRESS": "h:1",
        "IBEX_REDIS_URL": "redis://h",
        "IBEX_CLICKHOUSE_URL": "chdb:///somewhere",
    }

    done = ibex.run("serve", "--workers", "2")

    assert done.code == 2
    assert done.err.startswith("ibex: IBEX_CLICKHOUSE_URL is chdb://, which only one process can use.")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", [["serve"], ["auth", "serve"], ["migrate"]], ids=" ".join)
def test_production_says_that_it_does_not_read_dotenv(ibex: CliScene, command: list[str]) -> None:
    """Where there is one, and something is missing."""
    ibex.environ |= {"IBEX_ENV": "production", "OPENAI_API_KEY": "sk-x"}
    said = (
        f"{ibex.dotenv} exists, but IBEX_ENV=production does not read it. Set its variables in the environment instead."
    )
    assert said not in ibex.run(*command).err
    ibex.dotenv.write_text("IBEX_PORT=1\n")

    done = ibex.run(*command)

    assert (done.code, done.err.splitlines()[-1]) == (2, said)


@pytest.mark.parametrize("command", [["serve"], ["dev"], ["org", "list"], ["doctor"]], ids=" ".join)
def test_dotenv_cannot_ask_for_production(ibex: CliScene, command: list[str]) -> None:
    """The file is for development: the line says where the setting belongs. The environment still goes before it."""
    ibex.dotenv.write_text("IBEX_ENV=production\n")

    done = ibex.run(*command)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "which production does not read. Set it and the other settings in the environment" in done.err
    ibex.environ["IBEX_ENV"] = "development"
    assert ibex.run("org", "list").code == 0


def test_only_serving_needs_a_providers_key_in_production(ibex: CliScene) -> None:
    """The others go on to what they lack themselves."""
    ibex.environ["IBEX_ENV"] = "production"

    assert "OPENAI_API_KEY is not set" in ibex.run("serve").err
    for command in (["auth", "serve"], ["migrate"]):
        assert "OPENAI" not in ibex.run(*command).err
    assert ibex.run("org", "list").code == 0


def test_a_port_that_is_none_is_refused_before_anything_starts(ibex: CliScene) -> None:
    """The variable that the option stands for is named."""
    done = ibex.run("dev", "--port", "high")

    assert done.code == 2
    assert "IBEX_PORT is 'high'" in done.err
