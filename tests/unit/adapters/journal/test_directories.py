"""One process a directory, and any directory for a process."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.journal.directories import JournalInUseError, claim, claim_any

if TYPE_CHECKING:
    from pathlib import Path


def test_a_directory_is_one_process_s(tmp_path: Path) -> None:
    """Until it is released; who has it is told."""
    first = claim(tmp_path / "a")
    with pytest.raises(JournalInUseError, match=str(os.getpid())):
        claim(tmp_path / "a")
    first.release()
    claim(tmp_path / "a").release()


def test_any_directory_is_the_first_that_nobody_has(tmp_path: Path) -> None:
    """So what was left there is taken up before new ones are made."""
    claims = [claim_any(tmp_path / "root") for _ in range(3)]
    assert [one.path.name for one in claims] == ["0", "1", "2"]
    claims[1].release()
    again = claim_any(tmp_path / "root")
    assert again.path.name == "1"
    for one in (claims[0], claims[2], again):
        one.release()
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o700
