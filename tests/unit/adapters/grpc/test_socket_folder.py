"""The directory of auth's Unix socket: who can enter it, and which directories are removed."""

from __future__ import annotations

import errno
import fcntl
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ibex.adapters.grpc import socket_folder
from ibex.adapters.grpc.socket_folder import PREFIX, SocketFolder

START_AND_DIE = """
import os, signal
from ibex.adapters.grpc.socket_folder import SocketFolder
folder = SocketFolder()
(folder.path / "server").touch()
print(folder.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, with a short path."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_only_its_user_can_enter_it_and_it_is_removed_with_its_files(temporary: Path) -> None:
    """A second removal does nothing."""
    folder = SocketFolder()
    assert folder.path.parent == temporary
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "server").touch()

    folder.remove()
    folder.remove()

    assert not list(temporary.iterdir())


def test_the_directory_of_a_killed_process_is_removed_by_the_next(temporary: Path) -> None:
    """The directories of processes that live stay."""
    living = SocketFolder()
    killed = subprocess.run(
        [sys.executable, "-c", START_AND_DIE],
        env={"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    orphan = Path(killed.stdout.strip())
    assert (orphan / "server").exists()

    new = SocketFolder()

    assert set(temporary.iterdir()) == {living.path, new.path}
    living.remove()
    new.remove()


def test_a_link_with_such_a_name_is_left_as_it_is(temporary: Path, tmp_path: Path) -> None:
    """Another user could have made it, to have the files of this user removed."""
    (tmp_path / "kept").touch()
    link = temporary / f"{PREFIX}link"
    link.symlink_to(tmp_path)

    SocketFolder().remove()

    assert link.is_symlink()
    assert (tmp_path / "kept").exists()


def test_a_directory_that_cannot_be_locked_is_removed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have no locks. The error says how to choose another directory."""

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(socket_folder, "_FALLBACK", str(temporary))
    with pytest.raises(OSError, match="set TMPDIR to a writable directory"):
        SocketFolder()

    assert not list(temporary.iterdir())


def test_a_path_too_long_for_a_socket_is_not_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is in /dev/shm then, and none stays in the long path."""
    long = temporary / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    folder = SocketFolder()
    folder.remove()

    assert folder.path.parent == Path("/dev/shm")  # noqa: S108 - the fallback
    assert not list(long.iterdir())
