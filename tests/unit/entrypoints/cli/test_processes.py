"""Preparing what processes need; that they start and end is tests/integration's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibex.domain.identity import PersonalAccessToken

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
