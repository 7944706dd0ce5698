"""Behaviour common to all commands: help, and errors for wrong usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from ibex.entrypoints.cli.main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.cli_scene import CliScene


def commands(group: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group with the path to call it."""
    if not isinstance(group, click.Group):
        yield path, group
        return
    for name, command in group.commands.items():
        yield from commands(command, *path, name)


COMMANDS = dict(commands(cli))
CALLED = [pytest.param(path, id=" ".join(path)) for path in COMMANDS]
OF_AN_ORGANIZATION = [
    pytest.param(path, id=" ".join(path))
    for path in COMMANDS
    if path[0] in {"agent", "token", "directive", "sessions", "traces"} and path != ("traces", "gaps")
]


def test_the_list_of_commands_is_complete() -> None:
    """Adding or removing a command requires a change here."""
    assert {" ".join(path) for path in COMMANDS} == {
        *("dev", "serve", "auth serve", "migrate", "bootstrap", "doctor", "chat"),
        *("org create", "org set", "org list", "org suspend", "org activate"),
        *("agent create", "agent list", "agent pause", "agent suspend", "agent archive", "agent activate"),
        *("token create", "token list", "token revoke"),
        *("directive set", "directive show", "directive history", "directive diff", "directive rollback"),
        "directive deactivate",
        *("sessions list", "sessions show"),
        *("journal list", "journal drain", "journal replay"),
        *("traces tail", "traces show", "traces summary", "traces slow", "traces gaps"),
    }


@pytest.mark.parametrize("path", CALLED)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(ibex: CliScene, path: tuple[str, ...], option: str) -> None:
    """The help goes to standard output, lists every option, and needs no server."""
    ibex.failure = AssertionError("help needs no server")

    done = ibex.run(*path, option)

    assert (done.code, done.err) == (0, "")
    assert f"ibex {' '.join(path)}" in done.out
    for parameter in COMMANDS[path].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.opts[-1] in done.out


@pytest.mark.parametrize("path", CALLED)
def test_an_unknown_option_is_wrong_usage(ibex: CliScene, path: tuple[str, ...]) -> None:
    """The error goes to standard error and refers to the help. No server is needed."""
    ibex.failure = AssertionError("wrong usage needs no server")

    done = ibex.run(*path, "--nonsense")

    assert (done.code, done.out) == (2, "")
    assert "--nonsense" in done.err
    assert "--help" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        "bootstrap --org acme",
        "serve --workers 0",
        "serve --workers 257",
        "token create",
        "agent pause",
        "directive rollback one first",
        "directive set one text --mode louder",
        "sessions show",
        "sessions list --limit 0",
        "traces tail -n 10001",
        "traces summary --since 5",
        "traces summary --since 1w",
        "traces slow -n 0",
        "traces show",
        "traces show latest",
        "traces gaps --since 0d",
    ],
)
def test_an_invalid_or_missing_argument_is_wrong_usage(ibex: CliScene, arguments: str) -> None:
    """The error is reported before the command connects to a server."""
    ibex.failure = AssertionError("wrong usage needs no server")

    done = ibex.run(*arguments.split())

    assert (done.code, done.out) == (2, "")
    assert "Error" in done.err


@pytest.mark.parametrize("path", OF_AN_ORGANIZATION)
def test_every_command_of_an_organization_accepts_org(ibex: CliScene, path: tuple[str, ...]) -> None:
    """The error repeats the name of an unknown organization."""
    parameters = {parameter.name: parameter for parameter in COMMANDS[path].params}
    arguments = {
        "text": "Rhyme.",
        **dict.fromkeys(("number", "before", "after"), "1"),
        **dict.fromkeys(("token", "request"), "00000000-0000-0000-0000-000000000009"),
    }
    given = [arguments.get(name or "", "one") for name, p in parameters.items() if isinstance(p, click.Argument)]
    named = ["--name", "t"] if "name" in parameters and not given else []
    ibex.run("org", "create", "acme")

    done = ibex.run(*path, *given, *named, "--org", "globex")

    message = "ibex: There is no organization 'globex'. `ibex org list` lists them.\n"
    assert (done.code, done.out, done.err) == (1, "", message)


def test_the_org_option_overrides_the_folders_organization(ibex: CliScene) -> None:
    """It accepts the name or the id."""
    first, named, last = (
        ibex.run("org", "create", name, "--json").json["id"] for name in ("acme", "globex", "initech")
    )
    ibex.install(org_id=first)

    made = [
        ibex.run("agent", "create", "one", *options, "--json").json["org_id"]
        for options in ([], ["--org", "globex"], ["--org", last])
    ]

    assert made == [first, named, last]


def test_the_version_is_printed(ibex: CliScene) -> None:
    """The line begins with the name of the command, not of the package."""
    assert ibex.run("--version").out.startswith("ibex, version ")
