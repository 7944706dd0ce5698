"""Failures of commands: one line, and an exit code for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.domain.errors import NotFoundError, ServiceDegradedError
from ibex.domain.identity.management import AlreadyExistsError
from ibex.entrypoints.home import HomeInUseError
from ibex.entrypoints.settings import MissingSettingError, SettingsError

if TYPE_CHECKING:
    from harness.cli_scene import CliScene


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (NotFoundError("There is no such agent."), 1, "There is no such agent."),
        (ServiceDegradedError("The database is not available."), 1, "The database is not available."),
        (AlreadyExistsError("There is one."), 1, "There is one."),
        (HomeInUseError("IBEX already runs here."), 1, "IBEX already runs here."),
        (ConnectionRefusedError(111, "Connection refused"), 1, "Connection refused"),
        (ValueError("a directive has 1 to 32,768 bytes"), 1, "a directive has 1 to 32,768 bytes"),
        (SettingsError("IBEX_PORT is 'x'; allowed: 0 to 65535."), 2, "IBEX_PORT is 'x'; allowed: 0 to 65535."),
    ],
)
def test_an_expected_failure_is_one_line(ibex: CliScene, failure: Exception, code: int, said: str) -> None:
    """It goes to standard error without a traceback. Standard output stays empty for programs."""
    ibex.failure = failure

    done = ibex.run("org", "list", "--json")

    assert (done.code, done.out, done.err) == (code, "", f"ibex: {said}\n")


def test_a_missing_setting_is_reported_with_a_hint(ibex: CliScene) -> None:
    """The hint shows how to start the embedded default, which does not run."""
    ibex.failure = MissingSettingError("IBEX_DATABASE_URL is not set.")

    done = ibex.run("org", "list")

    assert done.code == 2
    assert "Start one: `ibex" in done.err


def test_a_process_reports_its_missing_setting(ibex: CliScene) -> None:
    """For example, ``migrate`` needs the owner's URL."""
    done = ibex.run("migrate")

    assert done.code == 2
    assert "IBEX_OWNER_DATABASE_URL is not set" in done.err


def test_an_unexpected_exception_is_raised(ibex: CliScene) -> None:
    """A bug is not reported as an operational failure."""
    ibex.failure = KeyError("oops")

    with pytest.raises(KeyError):
        ibex.run("org", "list")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["org", "create"], ["org", "create", "x", "--rpm", "-1"], ["sessions", "list", "--limit", "many"]],
)
def test_wrong_usage_is_exit_code_2(ibex: CliScene, arguments: list[str]) -> None:
    """This is the convention of command lines."""
    assert ibex.run(*arguments).code == 2


def test_help_lists_every_command(ibex: CliScene) -> None:
    """The help is where users discover commands."""
    done = ibex.run("--help")

    assert done.code == 0
    for name in (
        "dev",
        "serve",
        "migrate",
        "bootstrap",
        "org",
        "agent",
        "token",
        "directive",
        "sessions",
        "traces",
        "doctor",
    ):
        assert name in done.out


def test_an_invalid_setting_is_reported_before_connecting(ibex: CliScene) -> None:
    """The message contains the variable and its value."""
    ibex.environ["IBEX_PORT"] = "high"

    done = ibex.run("org", "list")

    assert done.code == 2
    assert "IBEX_PORT" in done.err
    assert "'high'" in done.err
