"""The handle on the engine's process, as far as none is started; the rest is tests/integration/."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.adapters.clickhouse.engine import ClickHouseEngine, EngineStartError

if TYPE_CHECKING:
    from pathlib import Path


def test_there_is_no_address_before_the_start(tmp_path: Path) -> None:
    """The port is not known before."""
    engine = ClickHouseEngine(tmp_path)
    with pytest.raises(RuntimeError, match="not been started"):
        _ = engine.url
    assert engine.pid is None


def test_stopping_what_does_not_run_does_nothing(tmp_path: Path) -> None:
    """Constructing and stopping touch nothing either."""
    ClickHouseEngine(tmp_path / "data").stop()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """A file in its place is an error before any process is started."""
    (tmp_path / "data").write_text("")
    engine = ClickHouseEngine(tmp_path / "data")
    with pytest.raises(EngineStartError, match="data directory"):
        engine.start()
    assert engine.pid is None
