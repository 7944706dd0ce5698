"""A `.env` must not redirect a secret of the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.destinations import DESTINATIONS, ONLY_CHAT_SENDS
from ibex.entrypoints.home import Home
from ibex.entrypoints.settings import SettingsError, variables
from ibex.entrypoints.settings_reference import COMMAND_LINE

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = [
    (secret, destination)
    for secret, destinations in DESTINATIONS.items()
    if secret != ONLY_CHAT_SENDS
    for destination in destinations
]


def invocation(folder: Path, environ: dict[str, str], *lines: str) -> Invocation:
    """Return a command in a folder with a `.env` of these lines."""
    dotenv = folder / ".env"
    dotenv.write_text("\n".join(lines))
    return Invocation(Home(folder / "home"), environ, dotenv=str(dotenv))


def test_every_secret_has_its_destinations() -> None:
    """A new secret setting needs an entry in the table. Its destinations are settings too."""
    named = {variable.name for _, variable in variables()} | set(COMMAND_LINE)
    secrets = {variable.name for _, variable in variables() if variable.is_secret}

    assert secrets | {ONLY_CHAT_SENDS} <= set(DESTINATIONS)
    assert {destination for destinations in DESTINATIONS.values() for destination in destinations} <= named


@pytest.mark.parametrize(("secret", "destination"), PAIRS)
def test_a_secret_of_the_environment_is_not_redirected(tmp_path: Path, secret: str, destination: str) -> None:
    """The error contains both names and neither value."""
    elsewhere = invocation(tmp_path, {secret: "canary-1"}, f"{destination}=canary-2")

    for read in (elsewhere.environ_with_dotenv, elsewhere.environ_of_settings, elsewhere.settings):
        with pytest.raises(SettingsError, match=f"^{destination} is in .*, but {secret} comes from the environment"):
            read()
    with pytest.raises(SettingsError) as raised:
        elsewhere.settings()
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(("secret", "destination"), PAIRS)
def test_a_secret_and_its_destination_from_one_source_are_accepted(
    tmp_path: Path, secret: str, destination: str
) -> None:
    """Both can come from the file or from the environment. A secret without a destination is accepted, too."""
    both = {secret: "x", destination: "y"}
    assert invocation(tmp_path, {}, f"{secret}=x", f"{destination}=y").environ_with_dotenv() == both
    assert invocation(tmp_path, both, f"{destination}=z").environ_with_dotenv() == both
    assert invocation(tmp_path, {secret: " "}, f"{destination}=y").environ_with_dotenv()[destination] == "y"
    assert invocation(tmp_path, {secret: "x"}, "IBEX_LOG_LEVEL=debug").environ_with_dotenv()[secret] == "x"


def test_dotenv_cannot_choose_files(tmp_path: Path) -> None:
    """A `.env` of somebody else could have a file sent to a server of theirs. Files of certificates are not sent."""
    with pytest.raises(SettingsError, match=r"^OPENAI_API_KEY_FILE is in .*must not choose files"):
        invocation(tmp_path, {}, "OPENAI_API_KEY_FILE=/run/another").environ_with_dotenv()

    assert invocation(tmp_path, {}, "IBEX_AUTH_CA_FILE=ca.pem").environ_with_dotenv() == {"IBEX_AUTH_CA_FILE": "ca.pem"}


def test_a_secret_in_a_file_is_not_redirected(tmp_path: Path) -> None:
    """A destination in a file of the environment takes precedence over `.env`."""
    secret = {"OPENAI_API_KEY_FILE": "/run/secrets/key"}
    with pytest.raises(SettingsError, match=r"^OPENAI_BASE_URL is in"):
        invocation(tmp_path, secret, "OPENAI_BASE_URL=http://h/v1").environ_with_dotenv()

    both = {**secret, "OPENAI_BASE_URL_FILE": "/run/url"}
    assert invocation(tmp_path, both, "OPENAI_BASE_URL=http://h/v1").environ_with_dotenv() == both
