"""The folder of the embedded default: its lock, its permissions and its files."""

from __future__ import annotations

import base64
import os
import stat
from typing import TYPE_CHECKING

import pytest

from harness.small_disk import small_disk
from ibex.entrypoints.home import FirstInstallation, Home, HomeInUseError

if TYPE_CHECKING:
    from pathlib import Path

INSTALLATION = FirstInstallation("org", "acme", "agent", "assistant", "ibex_pat_one", "ibex_pat_two")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A folder that does not exist yet."""
    return Home(tmp_path / "deep" / "home")


def test_only_one_process_can_claim_the_folder(home: Home) -> None:
    """The error contains the first process's id. Afterwards the folder can be claimed again."""
    with home.claim(), pytest.raises(HomeInUseError, match=str(os.getpid())), Home(home.path).claim():
        raise AssertionError("it must not get here")
    with home.claim():
        assert home.path.is_dir()


def test_only_the_owner_has_access(home: Home) -> None:
    """The folder is 0700 and its files are 0600, whatever the umask."""
    before = os.umask(0)
    try:
        with home.claim():
            home.token_peppers()
            home.remember_installation(INSTALLATION)
            home.announce("http://127.0.0.1:1", {})
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()}
    finally:
        os.umask(before)

    assert set(modes.values()) == {0o600}
    assert set(modes) == {"lock", "token_peppers", "installation.json", "running.json"}
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_the_pepper_is_generated_once(home: Home, tmp_path: Path) -> None:
    """It has a name and 32 random bytes, and differs between folders."""
    other = Home(tmp_path / "other")
    with home.claim(), other.claim():
        pepper = home.token_peppers()
        assert home.token_peppers() == pepper
        assert other.token_peppers() != pepper
    assert len(base64.b64decode(pepper.partition(":")[2])) == 32


def test_the_first_installation_is_stored(home: Home) -> None:
    """Before that, the folder has none. The repr contains no token."""
    assert home.installation() is None
    with home.claim():
        home.remember_installation(INSTALLATION)
    assert home.installation() == INSTALLATION
    assert "ibex_pat" not in repr(INSTALLATION)


def test_an_announcement_is_valid_while_its_process_lives(home: Home) -> None:
    """An announcement of a dead process is ignored."""
    assert (home.running_address(), home.running_environ()) == (None, {})
    with home.claim():
        home.announce("http://127.0.0.1:4242", {"IBEX_PORT": "1"}, "echo")
        assert home.running_address() == "http://127.0.0.1:4242"
        assert home.running_environ() == {"IBEX_PORT": "1"}
        assert home.running_provider() == "echo"
        left_behind = (home.path / "running.json").read_text()
    assert not (home.path / "running.json").exists()

    (home.path / "running.json").write_text(left_behind)
    assert (home.running_address(), home.running_provider()) == (None, None)
    with home.claim():
        assert home.running_address() is None


def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """The operating system's error does not contain the file."""
    with small_disk(tmp_path / "small", 1 << 16) as disk:
        home = Home(disk.path / "home")
        home.path.mkdir()
        disk.fill()
        with pytest.raises(OSError, match="No space left") as full, home.claim():
            raise AssertionError("it must not get here")

    assert str(full.value.filename).startswith(str(tmp_path / "small" / "home"))


def test_the_error_for_a_folder_that_cannot_be_created_names_it(tmp_path: Path) -> None:
    """In this case a parent is a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory") as wrong, Home(tmp_path / "file" / "home").claim():
        raise AssertionError("it must not get here")

    assert wrong.value.filename == str(tmp_path / "file" / "home")
