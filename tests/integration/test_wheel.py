"""The installed package works without the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ibex.adapters.postgres.migrate import head

if TYPE_CHECKING:
    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_a_wheel_migrates_both_databases(
    tmp_path: Path, empty_postgres: PostgresDatabase, empty_clickhouse: ClickHouseDatabase
) -> None:
    """`ibex migrate` finds its migrations inside the package, without the source tree."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    done = subprocess.run(
        [sys.executable, "-m", "ibex.entrypoints.cli", "migrate"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(installed),  # comes before an editable installation
            "IBEX_OWNER_DATABASE_URL": empty_postgres.owner_url,
            "IBEX_CLICKHOUSE_URL": empty_clickhouse.url,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"revision {head()}" in done.stdout
