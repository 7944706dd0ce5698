"""Tests of the handle of the engine's process, without a process. The other tests are in tests/integration/."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.adapters.clickhouse.engine import ClickHouseEngine, EngineStartError

if TYPE_CHECKING:
    from pathlib import Path


def test_there_is_no_url_before_the_start(tmp_path: Path) -> None:
    """The port is not known before the start."""
    engine = ClickHouseEngine(tmp_path)
    with pytest.raises(RuntimeError, match="not been started"):
        _ = engine.url
    assert engine.pid is None


def test_stopping_without_a_process_does_nothing(tmp_path: Path) -> None:
    """Neither the constructor nor stop touches the directory."""
    ClickHouseEngine(tmp_path / "data").stop()
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_directory_is_an_error(tmp_path: Path) -> None:
    """A file in its place is an error before any process is started."""
    (tmp_path / "data").write_text("")
    engine = ClickHouseEngine(tmp_path / "data")
    with pytest.raises(EngineStartError, match="data directory"):
        engine.start()
    assert engine.pid is None
