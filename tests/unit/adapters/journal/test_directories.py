"""Tests of the locks on journal directories."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.journal.directories import JournalInUseError, claim, claim_any

if TYPE_CHECKING:
    from pathlib import Path


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
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o700
