"""The state of the folder after a process died, or after its files were changed."""

from __future__ import annotations

import base64
import os
import stat
from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.home import FirstInstallation, Home, HomeInUseError

if TYPE_CHECKING:
    from pathlib import Path

INSTALLATION = FirstInstallation("org", "acme", "agent", "assistant", "ibex_pat_one", "ibex_pat_two")
FILES = {"token_peppers", "installation.json", "running.json"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A folder that does not exist yet."""
    return Home(tmp_path / "home")


def fill(home: Home) -> None:
    """Write every file of the folder."""
    home.token_peppers()
    home.remember_installation(INSTALLATION)
    home.announce("http://127.0.0.1:1", {})


def test_reading_creates_nothing(home: Home) -> None:
    """A command that looks for a running proxy does not create the folder."""
    assert home.installation() is None
    assert home.running_address() is None
    assert home.running_environ() == {}
    assert not home.path.exists()


def test_the_folder_is_free_after_an_exception(home: Home) -> None:
    """The announcement is no longer valid, and the folder can be claimed again."""

    def start() -> None:
        with home.claim():
            home.announce("http://127.0.0.1:1", {"IBEX_PORT": "1"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start()

    assert (home.running_address(), home.running_environ()) == (None, {})
    with home.claim():
        assert (home.running_address(), home.running_environ()) == (None, {})


@pytest.mark.parametrize("left", ["", "99999999999999999999", "no number"])
def test_the_content_of_a_lock_file_is_ignored(home: Home, left: str) -> None:
    """The file of a dead process does not lock. The error contains the id of the current owner."""
    home.path.mkdir()
    (home.path / "lock").write_text(left)

    with home.claim(), pytest.raises(HomeInUseError) as raised, Home(home.path).claim():
        raise AssertionError("it must not get here")

    expected = (
        f"IBEX already runs in {home.path} (pid {os.getpid()}). Stop it with Ctrl-C in its terminal or"
        f" `kill -INT {os.getpid()}`. Start a second one with another folder: `ibex --home {home.path}2 dev`."
    )
    assert str(raised.value) == expected


def test_a_failed_claim_does_not_affect_the_first(home: Home) -> None:
    """The announcement stays readable."""
    with home.claim():
        home.announce("http://127.0.0.1:4242", {})
        other = Home(home.path)
        with pytest.raises(HomeInUseError, match=r" at http://127\.0\.0\.1:4242 "), other.claim():
            raise AssertionError("it must not get here")

        assert other.running_address() == "http://127.0.0.1:4242"


def test_an_incomplete_file_of_a_dead_process_is_replaced(home: Home) -> None:
    """Neither its content nor its mode remains."""
    with home.claim():
        for name in FILES:
            (home.path / f"{name}.part").write_text("half a f")
            (home.path / f"{name}.part").chmod(0o666)
        fill(home)

        assert home.installation() == INSTALLATION
        assert home.running_address() == "http://127.0.0.1:1"
        assert {path.name for path in home.path.iterdir()} == {"lock", *FILES}
        assert {stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()} == {0o600}


def test_writing_restores_the_mode_of_a_file(home: Home) -> None:
    """A replaced file does not keep the mode of the old one."""
    with home.claim():
        fill(home)
        (home.path / "installation.json").chmod(0o644)
        home.remember_installation(INSTALLATION)

        assert stat.S_IMODE((home.path / "installation.json").stat().st_mode) == 0o600


def test_the_next_process_finds_installation_and_pepper(home: Home) -> None:
    """Tokens therefore stay valid after a restart."""
    with home.claim():
        fill(home)
        pepper = home.token_peppers()

    again = Home(home.path)
    with again.claim():
        assert (again.installation(), again.token_peppers()) == (INSTALLATION, pepper)
        assert len(set(base64.b64decode(pepper.partition(":")[2]))) > 8


@pytest.mark.parametrize("text", ["", '{"org_id": "01', "{'org_id': 1}", "\x00" * 64])
def test_a_damaged_installation_file_is_an_error(home: Home, text: str) -> None:
    """Otherwise the next start would create another installation."""
    with home.claim():
        fill(home)
        (home.path / "installation.json").write_text(text)

        with pytest.raises(ValueError, match="line 1 column"):
            home.installation()


def test_a_damaged_announcement_is_an_error(home: Home) -> None:
    """Otherwise a command could use other servers. Without a claim the file is not read."""
    with home.claim():
        (home.path / "running.json").write_text('{"address": "http')
        with pytest.raises(ValueError, match="Unterminated string"):
            home.running_address()
        with pytest.raises(ValueError, match="Unterminated string"):
            home.running_environ()
    (home.path / "running.json").write_text('{"address": "http')

    assert (home.running_address(), home.running_environ()) == (None, {})
