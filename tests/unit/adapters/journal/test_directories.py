"""Tests of the directories of journals: which one is used, and the locks."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.journal.directories import (
    JournalDirectoryError,
    JournalInUseError,
    checked_root,
    claim,
    claim_any,
    journal_directories,
    journals_root,
)

if TYPE_CHECKING:
    from pathlib import Path

UID = os.geteuid()


def mode(path: Path) -> int:
    """Return the permissions of a path."""
    return stat.S_IMODE(path.lstat().st_mode)


def test_only_one_process_can_claim_a_directory(tmp_path: Path) -> None:
    """Another claim fails until the directory is released. The error contains the owner's process id."""
    first = claim(tmp_path / "a")
    with pytest.raises(JournalInUseError, match=str(os.getpid())):
        claim(tmp_path / "a")
    first.release()
    claim(tmp_path / "a").release()


def test_claim_any_takes_the_first_unlocked_directory(tmp_path: Path) -> None:
    """This reuses orphaned journals before it creates new ones."""
    claims = [claim_any(tmp_path / "root") for _ in range(3)]
    assert [one.path.name for one in claims] == ["0", "1", "2"]
    claims[1].release()
    again = claim_any(tmp_path / "root")
    assert again.path.name == "1"
    for one in (claims[0], claims[2], again):
        one.release()
    assert mode(tmp_path / "root") == 0o700


@pytest.mark.parametrize("given", [0o2775, 0o777, 0o500])
def test_an_own_directory_becomes_private(tmp_path: Path, given: int) -> None:
    """Kubernetes adds rights for the group of the volume at each mount, to directories and to files."""
    root = tmp_path / "root"
    claim_any(root).release()
    (root / "0" / "journal.sqlite").touch()
    for path in (root / "0" / "journal.sqlite", root / "0", root):
        path.chmod(given if path.is_dir() else 0o660)

    claim_any(root).release()

    assert [mode(path) for path in (root, root / "0", root / "0" / "journal.sqlite")] == [0o700, 0o700, 0o600]


def test_a_shared_directory_is_left_as_it_is(tmp_path: Path) -> None:
    """The sticky bit says that others use it. The journals are in a private directory below it."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o1777)

    one = claim_any(root)

    assert one.path == root / f"ibex-{UID}" / "0" == journals_root(root) / "0"
    assert [mode(path) for path in (root, one.path.parent, one.path)] == [0o1777, 0o700, 0o700]
    (one.path / "journal.sqlite").touch()
    assert list(journal_directories(journals_root(root))) == [one.path]
    one.release()


def test_a_link_in_a_shared_directory_is_refused(tmp_path: Path) -> None:
    """Anyone could have put it there. A start and the check of ``ibex doctor`` say the same."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    root.mkdir()
    root.chmod(0o1777)
    (root / f"ibex-{UID}").symlink_to(elsewhere)

    for use in (claim_any, checked_root):
        with pytest.raises(JournalDirectoryError, match=rf"root/ibex-{UID} is not a directory"):
            use(root)
    assert list(elsewhere.iterdir()) == []


def test_a_link_as_the_configured_directory_is_followed(tmp_path: Path) -> None:
    """The operator has chosen it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "journal").symlink_to(tmp_path / "disk")

    claim_any(tmp_path / "journal").release()

    assert (tmp_path / "disk" / "0" / "lock").exists()


def test_a_link_in_place_of_a_journal_is_not_used(tmp_path: Path) -> None:
    """The next directory is used instead."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir(mode=0o700)
    (tmp_path / "root" / "0").symlink_to(tmp_path / "elsewhere")

    one = claim_any(tmp_path / "root")

    assert one.path.name == "1"
    one.release()


@pytest.mark.skipif(UID != 0, reason="only root can make a directory of another owner")
@pytest.mark.parametrize("given", [0o2775, 0o1777, 0o777])
def test_a_directory_of_another_owner_gets_a_private_one(tmp_path: Path, given: int) -> None:
    """Its owner and mode stay."""
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, 4_242, 4_243)
    root.chmod(given)

    claim_any(root).release()

    assert (mode(root), root.stat().st_uid) == (given, 4_242)
    assert mode(root / f"ibex-{UID}" / "0") == 0o700


@pytest.mark.skipif(UID != 0, reason="only root can make a directory of another owner")
def test_a_private_directory_of_another_owner_is_refused(tmp_path: Path) -> None:
    """Whoever made it could read and change the journals. The message names both users."""
    root = tmp_path / "root"
    (root / f"ibex-{UID}").mkdir(parents=True)
    os.chown(root / f"ibex-{UID}", 4_242, 4_243)
    root.chmod(0o1777)

    for use in (claim_any, checked_root):
        with pytest.raises(JournalDirectoryError, match=f"belongs to user 4242, and this process runs as {UID}"):
            use(root)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """A start also says what to do."""
    (tmp_path / "file").touch()

    with pytest.raises(JournalDirectoryError, match="file is not a directory"):
        checked_root(tmp_path / "file")
    with pytest.raises(JournalDirectoryError, match=r"file is not a directory. Set IBEX_JOURNAL_DIR to"):
        claim_any(tmp_path / "file")
