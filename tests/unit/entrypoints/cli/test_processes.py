"""Checks before processes start. ``tests/integration`` tests that they start and end."""

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


def test_bootstrap_creates_everything_for_a_first_request(ibex: CliScene) -> None:
    """It prints both tokens and activates the directive. A second bootstrap fails."""
    made = ibex.run(*BOOTSTRAP, "--json").json

    assert all(PersonalAccessToken.parse(made[name]) for name in ("agent_token", "admin_token"))
    assert ibex.run("directive", "show", "one", "--json").json["text"] == "Be brief."
    tokens = ibex.run("token", "list", "--json").json
    assert [(t["permissions"], t["agent_id"]) for t in tokens] == [("agent", made["agent_id"]), ("admin", None)]
    assert ibex.run(*BOOTSTRAP).code == 1


def test_a_process_without_a_database_url_does_not_start(ibex: CliScene) -> None:
    """The error names the missing setting."""
    for command in ("serve", "migrate"):
        done = ibex.run(command)

        assert done.code == 2
        assert "DATABASE_URL is not set" in done.err


def test_serve_without_any_server_suggests_ibex_dev(ibex: CliScene) -> None:
    """Only one development worker without any configured server can use `ibex dev` instead."""
    assert "dev`." in ibex.run("serve").err
    for command in (["serve", "--workers", "2"], ["auth", "serve"], ["migrate"]):
        assert "dev`" not in ibex.run(*command).err
    ibex.environ["IBEX_CLICKHOUSE_URL"] = "http://h"
    assert "dev`" not in ibex.run("serve").err
    ibex.environ |= {"IBEX_CLICKHOUSE_URL": "", "IBEX_ENV": "production", "OPENAI_API_KEY": "sk-x"}
    assert "dev`" not in ibex.run("serve").err


def test_serve_does_not_suggest_ibex_dev_while_it_runs(ibex: CliScene) -> None:
    """The embedded default runs already, so starting it would not help."""
    with ibex.home.claim():
        ibex.home.announce("http://127.0.0.1:1", {"IBEX_DATABASE_URL": "postgresql://h"})
        assert "dev`" not in ibex.run("serve").err


def test_several_workers_report_all_missing_settings_at_once(ibex: CliScene) -> None:
    """The list includes settings that a single worker does not need."""
    ibex.environ["IBEX_DATABASE_URL"] = "postgresql://h"

    done = ibex.run("serve", "--workers", "2")

    missing = [line.removeprefix("ibex: ").split()[0] for line in done.err.splitlines()[:-1]]
    assert (done.code, missing) == (2, ["IBEX_CLICKHOUSE_URL", "IBEX_AUTH_ADDRESS", "IBEX_REDIS_URL"])
    hint = "Several workers share PostgreSQL, ClickHouse, auth and Redis. Set these, or use one worker."
    assert done.err.splitlines()[-1] == hint


def test_several_workers_cannot_share_chdb(ibex: CliScene) -> None:
    """Only one process can open it, so the traces of the others would never be delivered."""
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
def test_production_reports_that_it_ignores_dotenv(ibex: CliScene, command: list[str]) -> None:
    """The line is printed if the file exists and a setting is missing."""
    ibex.environ |= {"IBEX_ENV": "production", "OPENAI_API_KEY": "sk-x"}
    said = (
        f"{ibex.dotenv} exists, but IBEX_ENV=production does not read it. Set its variables in the environment instead."
    )
    assert said not in ibex.run(*command).err
    ibex.dotenv.write_text("IBEX_PORT=1\n")

    done = ibex.run(*command)

    assert (done.code, done.err.splitlines()[-1]) == (2, said)


@pytest.mark.parametrize("command", [["serve"], ["dev"], ["org", "list"], ["doctor"]], ids=" ".join)
def test_dotenv_cannot_select_production(ibex: CliScene, command: list[str]) -> None:
    """The error says to use the environment, which overrides the file."""
    ibex.dotenv.write_text("IBEX_ENV=production\n")

    done = ibex.run(*command)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "which production does not read. Set it and the other settings in the environment" in done.err
    ibex.environ["IBEX_ENV"] = "development"
    assert ibex.run("org", "list").code == 0


def test_only_serving_needs_a_providers_key_in_production(ibex: CliScene) -> None:
    """The other commands do not report the missing key."""
    ibex.environ["IBEX_ENV"] = "production"

    assert "OPENAI_API_KEY is not set" in ibex.run("serve").err
    for command in (["auth", "serve"], ["migrate"]):
        assert "OPENAI" not in ibex.run(*command).err
    assert ibex.run("org", "list").code == 0


def test_an_invalid_port_is_refused_before_the_start(ibex: CliScene) -> None:
    """The error names the variable that the option sets."""
    done = ibex.run("dev", "--port", "high")

    assert done.code == 2
    assert "IBEX_PORT is 'high'" in done.err
