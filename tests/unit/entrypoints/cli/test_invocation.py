"""Where a command's settings come from, and what it takes names for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.home import Home
from ibex.entrypoints.settings import MissingSettingError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.cli_scene import CliScene


@pytest.mark.parametrize(
    ("environ", "port"),
    [({}, 1_111), ({"IBEX_PORT": "2222"}, 2_222), ({"IBEX_ENV": "production"}, 8_080)],
)
def test_dotenv_is_for_development_and_gives_way_to_the_environment(
    tmp_path: Path, environ: dict[str, str], port: int
) -> None:
    """Production reads the environment alone."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("IBEX_PORT=1111\n")

    invocation = Invocation(Home(tmp_path / "home"), environ, dotenv=str(dotenv))

    assert invocation.settings().port == port


def test_a_dotenv_that_is_no_text_is_named(tmp_path: Path) -> None:
    """And nothing of it is shown."""
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"OPENAI_API_KEY=secret\xff\n")

    with pytest.raises(SettingsError, match=r"\.env is not valid UTF-8\. Save it as UTF-8, or remove it\.$") as raised:
        Invocation(Home(tmp_path / "home"), {}, dotenv=str(dotenv)).settings()

    assert "secret" not in str(raised.value)


def test_workers_are_told_the_settings_and_nothing_else_of_dotenv(tmp_path: Path) -> None:
    """All of the environment, and of the file what is a setting: the rest may be meant for another program."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("IBEX_PORT=1111\nIBEX_HOST=::1\nPYTHONPATH=elsewhere\n")
    environ = {"IBEX_PORT": "2222", "PATH": "/bin"}
    home = Home(tmp_path / "home")

    with home.claim():
        home.announce("http://127.0.0.1:1", {"IBEX_HOST": "::2", "IBEX_LOG_LEVEL": "debug"})
        told = Invocation(home, environ, dotenv=str(dotenv)).environ_of_settings()

    journal = {"IBEX_JOURNAL_DIR": str(home.journal)}
    assert told == {**environ, **journal, "IBEX_HOST": "::1", "IBEX_LOG_LEVEL": "debug"}


@pytest.mark.parametrize(
    ("environ", "folder"), [({}, None), ({"IBEX_JOURNAL_DIR": " "}, None), ({"IBEX_JOURNAL_DIR": "x"}, "x")]
)
def test_the_journal_is_in_the_folder_unless_it_is_set(
    tmp_path: Path, environ: dict[str, str], folder: str | None
) -> None:
    """Of `ibex serve` as of `ibex dev`: who moves the one moves the other."""
    home = Home(tmp_path / "home")

    settings = Invocation(home, environ, dotenv=str(tmp_path / "none")).settings()

    assert settings.journal_dir == (folder or str(home.journal))


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
    """What was looked for and where; and what is there, if that is not long."""
    ibex.run("org", "create", "acme")
    message = f"ibex: There is no agent {wanted!r} in the organization 'acme'."

    assert ibex.run("agent", "pause", wanted).err == f"{message} Create one with `ibex agent create`.\n"
    for name in ("one", "two"):
        ibex.run("agent", "create", name)
    done = ibex.run("agent", "pause", wanted)
    assert (done.code, done.err) == (1, f"{message} Its agents are: one, two.\n")
    for number in range(4):
        ibex.run("agent", "create", f"another-{number}")
    assert ibex.run("agent", "pause", wanted).err == f"{message} `ibex agent list` lists its agents.\n"


def test_where_nothing_runs_the_way_to_start_it_comes_first(ibex: CliScene) -> None:
    """With the folder; what would name servers elsewhere comes after it."""
    ibex.failure = MissingSettingError("IBEX_DATABASE_URL is not set.")

    absent, missing = ibex.run("org", "list").err.splitlines()

    start = f"Start one: `ibex --home {ibex.home.path} dev`."
    assert absent == f"ibex: No IBEX instance runs in {ibex.home.path} (the directory does not exist). {start}"
    assert missing == "Or configure servers elsewhere: IBEX_DATABASE_URL is not set."
    ibex.install()
    assert ibex.run("org", "list").err.startswith(f"ibex: No IBEX instance runs in {ibex.home.path}. {start}\n")


def test_in_production_what_is_missing_is_all_that_is_said(ibex: CliScene) -> None:
    """Nobody there means the embedded default."""
    ibex.environ["IBEX_ENV"] = "production"
    ibex.failure = MissingSettingError("IBEX_DATABASE_URL is not set.")

    done = ibex.run("org", "list")

    assert (done.code, done.err.splitlines()[0]) == (2, "ibex: IBEX_DATABASE_URL is not set.")
    assert "No IBEX instance" not in done.err


def test_an_id_is_taken_in_any_case(ibex: CliScene) -> None:
    """Ids are pasted from anywhere."""
    ibex.run("org", "create", "acme")
    made = ibex.run("agent", "create", "one", "--json").json["id"]

    assert ibex.run("agent", "pause", made.upper()).out == "one is paused.\n"


def test_the_organization_may_stand_in_dotenv(ibex: CliScene) -> None:
    """The environment and the option go before it."""
    for name in ("acme", "globex"):
        ibex.run("org", "create", name)
        assert ibex.run("agent", "create", f"of-{name}", "--org", name).code == 0
    ibex.dotenv.write_text("IBEX_ORG=globex\n")

    assert [agent["name"] for agent in ibex.run("agent", "list", "--json").json] == ["of-globex"]
    assert [agent["name"] for agent in ibex.run("agent", "list", "--json", "--org", "acme").json] == ["of-acme"]
