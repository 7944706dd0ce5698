"""Tests of the checks before the process starts the engine. The other tests are in tests/integration/."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.clickhouse.engine_server import EngineStartError, _locked

if TYPE_CHECKING:
    from pathlib import Path


def test_a_directory_has_one_lock(tmp_path: Path) -> None:
    """The error contains the id of the first process. The lock is free again after that process ends."""
    for _ in range(2):
        with _locked(tmp_path), pytest.raises(EngineStartError, match=f"process {os.getpid()} "), _locked(tmp_path):
            pass


def test_a_directory_is_private_to_its_owner(tmp_path: Path) -> None:
    """Missing parents are created too."""
    with _locked(tmp_path / "a" / "b"):
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    """A file in its place is an error of the start."""
    (tmp_path / "data").write_text("")
    with pytest.raises(EngineStartError, match="data directory"), _locked(tmp_path / "data"):
        pass
