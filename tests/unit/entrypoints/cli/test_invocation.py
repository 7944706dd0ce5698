"""Where a command's settings come from, and what it takes names for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.home import Home

if TYPE_CHECKING:
    from pathlib import Path

    from harness.cli_scene import CliScene


@pytest.mark.parametrize(
    ("environ", "port"),
    [({}, 1_111), ({"IBEX_PORT": "2222"}, 2_222), ({"IBEX_ENV": "production", "OPENAI_API_KEY": "sk-x"}, 8_080)],
)
def test_dotenv_is_for_development_and_gives_way_to_the_environment(
    tmp_path: Path, environ: dict[str, str], port: int
) -> None:
    """Production reads the environment alone."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("IBEX_PORT=1111\n")

    invocation = Invocation(Home(tmp_path / "home"), environ, dotenv=str(dotenv))

    assert invocation.settings().port == port


def test_what_runs_on_the_folder_is_found_there_and_gives_way_to_the_environment(tmp_path: Path) -> None:
    """A second terminal needs no variables."""
    home = Home(tmp_path / "home")
    with home.claim():
        home.announce("http://127.0.0.1:1", {"IBEX_PORT": "1111", "IBEX_LOG_LEVEL": "debug"})
        settings = Invocation(home, {"IBEX_PORT": "2222"}, dotenv=str(tmp_path / "none")).settings()

    assert (settings.port, settings.log_level) == (2_222, "debug")


def test_without_a_choice_it_is_the_only_organization(ibex: CliScene) -> None:
    """None yet: said; one: taken; two: a question, with both names."""
    assert "bootstrap" in ibex.run("agent", "list").err
    ibex.run("org", "create", "acme")
    assert ibex.run("agent", "create", "one").code == 0
    ibex.run("org", "create", "globex")

    done = ibex.run("agent", "list")

    assert done.code == 2
    assert "acme" in done.err
    assert "globex" in done.err


def test_the_folders_first_organization_goes_before_the_question(ibex: CliScene) -> None:
    """In development there is one that is meant."""
    ibex.run("org", "create", "acme")
    globex = ibex.run("org", "create", "globex", "--json").json["id"]
    ibex.install(org_id=globex)

    assert ibex.run("agent", "create", "one", "--json").json["org_id"] == globex


@pytest.mark.parametrize("wanted", ["nobody", "01980000-0000-7000-8000-000000000000", ""])
def test_a_name_that_nothing_has_is_repeated(ibex: CliScene, wanted: str) -> None:
    """What was looked for, and what kind of thing it would be."""
    ibex.run("org", "create", "acme")

    done = ibex.run("agent", "pause", wanted)

    assert done.code == 1
    assert f"no agent of acme {wanted!r}" in done.err


def test_an_id_is_taken_in_any_case(ibex: CliScene) -> None:
    """Ids are pasted from anywhere."""
    ibex.run("org", "create", "acme")
    made = ibex.run("agent", "create", "one", "--json").json["id"]

    assert ibex.run("agent", "pause", made.upper()).out == "one is paused.\n"
