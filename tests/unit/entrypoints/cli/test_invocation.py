"""The sources of a command's settings, and how names are resolved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.home import Home
from ibex.entrypoints.settings import MissingSettingError, SettingsError

if TYPE_CHECKING:
    from harness.cli_scene import CliScene


@pytest.mark.parametrize(
    ("environ", "port"),
    [({}, 1_111), ({"IBEX_PORT": "2222"}, 2_222), ({"IBEX_ENV": "production"}, 8_080)],
)
def test_the_environment_overrides_dotenv(tmp_path: Path, environ: dict[str, str], port: int) -> None:
    """Production reads only the environment."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("IBEX_PORT=1111\n")

    invocation = Invocation(Home(tmp_path / "home"), environ, dotenv=str(dotenv))

    assert invocation.settings().port == port


def test_a_dotenv_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    """The error names the file and shows none of its content."""
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"OPENAI_API_KEY=secret\xff\n")

    with pytest.raises(SettingsError, match=r"\.env is not valid UTF-8\. Save it as UTF-8, or remove it\.$") as raised:
        Invocation(Home(tmp_path / "home"), {}, dotenv=str(dotenv)).settings()

    assert "secret" not in str(raised.value)


def test_workers_receive_only_the_settings_of_dotenv(tmp_path: Path) -> None:
    """They receive the whole environment. Other variables of the file may be for another program."""
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
def test_the_default_journal_is_in_the_folder(tmp_path: Path, environ: dict[str, str], folder: str | None) -> None:
    """`ibex serve` and `ibex dev` use the same journal."""
    home = Home(tmp_path / "home")

    settings = Invocation(home, environ, dotenv=str(tmp_path / "none")).settings()

    assert settings.journal_dir == (folder or str(home.journal))


def test_announced_settings_are_used_unless_the_environment_sets_them(tmp_path: Path) -> None:
    """A second terminal needs no variables to find the running instance."""
    home = Home(tmp_path / "home")
    with home.claim():
        home.announce("http://127.0.0.1:1", {"IBEX_PORT": "1111", "IBEX_LOG_LEVEL": "debug"})
        settings = Invocation(home, {"IBEX_PORT": "2222"}, dotenv=str(tmp_path / "none")).settings()

    assert (settings.port, settings.log_level) == (2_222, "debug")


def test_the_only_organization_is_the_default(ibex: CliScene) -> None:
    """Without any, the error suggests ``bootstrap``. With two, it lists both names."""
    assert "bootstrap" in ibex.run("agent", "list").err
    ibex.run("org", "create", "acme")
    assert ibex.run("agent", "create", "one").code == 0
    ibex.run("org", "create", "globex")

    done = ibex.run("agent", "list")

    assert done.code == 2
    assert "acme" in done.err
    assert "globex" in done.err


def test_the_default_among_several_is_the_folders_organization(ibex: CliScene) -> None:
    """In development, the folder determines the organization."""
    ibex.run("org", "create", "acme")
    globex = ibex.run("org", "create", "globex", "--json").json["id"]
    ibex.install(org_id=globex)

    assert ibex.run("agent", "create", "one", "--json").json["org_id"] == globex


@pytest.mark.parametrize("wanted", ["nobody", "01980000-0000-7000-8000-000000000000", ""])
def test_an_unknown_agent_is_named_in_the_error(ibex: CliScene, wanted: str) -> None:
    """The error names the organization, and lists its agents if they are few."""
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


def test_a_missing_setting_suggests_starting_an_instance_first(ibex: CliScene) -> None:
    """The error names the folder. Configuring other servers is the second suggestion."""
    ibex.failure = MissingSettingError("IBEX_DATABASE_URL is not set. And much more.", ["IBEX_DATABASE_URL", "IBEX_X"])

    absent, missing = ibex.run("org", "list").err.splitlines()

    start = f"Start one: `ibex --home {ibex.home.path} dev`."
    assert absent == f"ibex: No IBEX instance runs in {ibex.home.path} (the directory does not exist). {start}"
    assert missing == "To use servers elsewhere, set IBEX_DATABASE_URL, IBEX_X (docs/configuration.md)."
    ibex.install()
    assert ibex.run("org", "list").err.startswith(f"ibex: No IBEX instance runs in {ibex.home.path}. {start}\n")


def test_the_default_folder_is_started_with_make_run(tmp_path: Path) -> None:
    """Another folder needs an option, which `make run` does not pass on."""
    assert "`make run` in a clone of IBEX" in Invocation(Home(Path(".ibex")), {}).no_instance()
    assert "make run" not in Invocation(Home(tmp_path), {}).no_instance()


def test_a_missing_setting_in_production_does_not_suggest_an_instance(ibex: CliScene) -> None:
    """Production does not use the embedded default."""
    ibex.environ["IBEX_ENV"] = "production"
    ibex.failure = MissingSettingError("IBEX_DATABASE_URL is not set.")

    done = ibex.run("org", "list")

    assert (done.code, done.err.splitlines()[0]) == (2, "ibex: IBEX_DATABASE_URL is not set.")
    assert "No IBEX instance" not in done.err


def test_an_id_is_case_insensitive(ibex: CliScene) -> None:
    """Ids may be pasted from other programs."""
    ibex.run("org", "create", "acme")
    made = ibex.run("agent", "create", "one", "--json").json["id"]

    assert ibex.run("agent", "pause", made.upper()).out == "one is paused.\n"


def test_dotenv_can_set_the_organization(ibex: CliScene) -> None:
    """The option overrides it."""
    for name in ("acme", "globex"):
        ibex.run("org", "create", name)
        assert ibex.run("agent", "create", f"of-{name}", "--org", name).code == 0
    ibex.dotenv.write_text("IBEX_ORG=globex\n")

    assert [agent["name"] for agent in ibex.run("agent", "list", "--json").json] == ["of-globex"]
    assert [agent["name"] for agent in ibex.run("agent", "list", "--json", "--org", "acme").json] == ["of-acme"]


DATABASES = {"IBEX_DATABASE_URL": "postgresql://app@h/ibex", "IBEX_AUTH_DATABASE_URL": "postgresql://auth@h/ibex"}


@pytest.mark.parametrize(
    ("environ", "is_replaced"),
    [
        ({}, True),
        ({"IBEX_REDIS_URL": "redis://127.0.0.1:1/0"}, True),
        (DATABASES, True),
        ({"IBEX_DATABASE_URL": "postgresql://app@other/ibex"}, False),
        ({"IBEX_AUTH_DATABASE_URL": "postgresql://auth@other/ibex"}, False),
        ({"IBEX_DATABASE_URL_FILE": "url"}, False),
    ],
)
def test_a_command_replaces_the_epoch_of_the_instance_whose_databases_it_changes(
    ibex: CliScene, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *, is_replaced: bool
) -> None:
    """The instance in the home folder reads its epoch in a file there, and does not use Redis."""
    monkeypatch.chdir(ibex.home.path.parent)
    (ibex.home.path.parent / "url").write_text("postgresql://app@other/ibex")
    ibex.environ.update(environ)
    with ibex.home.claim():
        ibex.home.announce("http://127.0.0.1:1", DATABASES)
        assert ibex.run("org", "list").code == 0
    assert ibex.epoch_file == (ibex.home.epoch if is_replaced else None)


def test_without_an_instance_no_epoch_in_a_file_is_replaced(ibex: CliScene) -> None:
    """The epochs of other servers are in Redis."""
    assert ibex.run("org", "list").code == 0
    assert ibex.epoch_file is None
