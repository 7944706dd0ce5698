"""What the engine's process checks before it starts anything; the rest is tests/integration/."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.clickhouse.engine_server import EngineStartError, _locked

if TYPE_CHECKING:
    from pathlib import Path


def test_a_directory_is_claimed_once(tmp_path: Path) -> None:
    """The second is told who has it; after the first it is free again."""
    for _ in range(2):
        with _locked(tmp_path), pytest.raises(EngineStartError, match=f"process {os.getpid()} "), _locked(tmp_path):
            pass


def test_a_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    """Its parents too where they are missing."""
    with _locked(tmp_path / "a" / "b"):
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in the way is an error of the start."""
    (tmp_path / "data").write_text("")
    with pytest.raises(EngineStartError, match="data directory"), _locked(tmp_path / "data"):
        pass
