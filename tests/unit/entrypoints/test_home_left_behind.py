"""What is found in the folder after a process has died, or after somebody has been at its files."""

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
    """A folder that is not there yet."""
    return Home(tmp_path / "home")


def fill(home: Home) -> None:
    """Write everything that is written there."""
    home.token_peppers()
    home.remember_installation(INSTALLATION)
    home.announce("http://127.0.0.1:1", {})


def test_asking_touches_nothing(home: Home) -> None:
    """Commands that look for what runs do not leave a folder behind."""
    assert home.installation() is None
    assert home.running_address() is None
    assert home.running_environ() == {}
    assert not home.path.exists()


def test_a_claim_that_fails_leaves_the_folder_free(home: Home) -> None:
    """And what was announced is no longer believed."""

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
def test_a_lock_that_nobody_holds_stops_nobody(home: Home, left: str) -> None:
    """Whatever a process that died wrote into it; the second one is told of who holds it now, and of no one else."""
    home.path.mkdir()
    (home.path / "lock").write_text(left)

    with home.claim(), pytest.raises(HomeInUseError) as raised, Home(home.path).claim():
        raise AssertionError("it must not get here")

    expected = f"IBEX is already running in {home.path} (pid {os.getpid()}). Stop it, or pass another --home."
    assert str(raised.value) == expected


def test_the_second_claim_takes_nothing_from_the_first(home: Home) -> None:
    """The announcement stands, and is readable by who was refused."""
    with home.claim():
        home.announce("http://127.0.0.1:4242", {})
        other = Home(home.path)
        with pytest.raises(HomeInUseError), other.claim():
            raise AssertionError("it must not get here")

        assert other.running_address() == "http://127.0.0.1:4242"


def test_half_a_file_of_a_process_that_died_is_no_obstacle(home: Home) -> None:
    """Neither its contents nor its mode is taken over."""
    with home.claim():
        for name in FILES:
            (home.path / f"{name}.part").write_text("half a f")
            (home.path / f"{name}.part").chmod(0o666)
        fill(home)

        assert home.installation() == INSTALLATION
        assert home.running_address() == "http://127.0.0.1:1"
        assert {path.name for path in home.path.iterdir()} == {"lock", *FILES}
        assert {stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()} == {0o600}


def test_a_file_that_was_opened_to_others_is_closed_by_the_next_writing(home: Home) -> None:
    """What is replaced does not keep the old one's mode."""
    with home.claim():
        fill(home)
        (home.path / "installation.json").chmod(0o644)
        home.remember_installation(INSTALLATION)

        assert stat.S_IMODE((home.path / "installation.json").stat().st_mode) == 0o600


def test_what_is_left_is_found_by_the_next_process(home: Home) -> None:
    """Installation and pepper outlive the claim: tokens stay valid from one start to the next."""
    with home.claim():
        fill(home)
        pepper = home.token_peppers()

    again = Home(home.path)
    with again.claim():
        assert (again.installation(), again.token_peppers()) == (INSTALLATION, pepper)
        assert len(set(base64.b64decode(pepper.partition(":")[2]))) > 8


@pytest.mark.parametrize("text", ["", '{"org_id": "01', "{'org_id': 1}", "\x00" * 64])
def test_an_installation_that_cannot_be_read_is_not_taken_for_none(home: Home, text: str) -> None:
    """Else the next start would make another one beside it."""
    with home.claim():
        fill(home)
        (home.path / "installation.json").write_text(text)

        with pytest.raises(ValueError, match="line 1 column"):
            home.installation()


def test_an_announcement_that_cannot_be_read_is_not_taken_for_none(home: Home) -> None:
    """Else a command would go to other servers than those that run; without a claim it is not even looked at."""
    with home.claim():
        (home.path / "running.json").write_text('{"address": "http')
        with pytest.raises(ValueError, match="Unterminated string"):
            home.running_address()
        with pytest.raises(ValueError, match="Unterminated string"):
            home.running_environ()
    (home.path / "running.json").write_text('{"address": "http')

    assert (home.running_address(), home.running_environ()) == (None, {})
