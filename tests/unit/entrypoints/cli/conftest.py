"""Fixtures of the command line tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.cli_scene import CliScene

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ibex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CliScene:
    """The command line over empty in-memory adapters."""
    return CliScene(tmp_path, capsys)
