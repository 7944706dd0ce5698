"""Tests of the comparison of a wheel and a source distribution with the repository."""

from __future__ import annotations

import pytest
from release.contents import sdist_problems, wheel_problems

TRACKED = [
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "src/ibex/__init__.py",
    "src/ibex/py.typed",
    "src/ibex/adapters/clickhouse/migrations/0001_llm_traces.sql",
    "alembic/env.py",
    "alembic/versions/0001_first.py",
    "tests/conftest.py",
]
WHEEL = [
    "ibex/__init__.py",
    "ibex/py.typed",
    "ibex/adapters/clickhouse/migrations/0001_llm_traces.sql",
    "ibex/_migrations/postgres/env.py",
    "ibex/_migrations/postgres/versions/0001_first.py",
    *(f"ibex_harness-1.0.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")),
    "ibex_harness-1.0.0.dist-info/licenses/LICENSE",
]
SDIST = [*TRACKED, "PKG-INFO"]


def test_a_wheel_with_the_package_and_its_migrations_is_right() -> None:
    """It contains no tests."""
    assert wheel_problems(WHEEL, TRACKED, "1.0.0") == []


@pytest.mark.parametrize("name", WHEEL)
def test_each_missing_file_of_a_wheel_is_reported(name: str) -> None:
    """Migrations, SQL, the marker of types and the license are among them."""
    assert wheel_problems([one for one in WHEEL if one != name], TRACKED, "1.0.0") == [f"the wheel lacks {name}"]


@pytest.mark.parametrize("name", ["tests/conftest.py", "ibex/scratch.py", "ibex/__pycache__/x.pyc", ".env"])
def test_each_other_file_of_a_wheel_is_reported(name: str) -> None:
    """A file that git does not track, or that belongs elsewhere, is not published."""
    assert wheel_problems([*WHEEL, name], TRACKED, "1.0.0") == [
        f"the wheel contains {name}, which does not belong there"
    ]


def test_a_source_distribution_contains_tracked_files_only() -> None:
    """It must be enough to build the wheel; tests may be left out."""
    assert sdist_problems(SDIST, TRACKED) == []
    assert sdist_problems([name for name in SDIST if name != "tests/conftest.py"], TRACKED) == []
    (lacks,) = sdist_problems([name for name in SDIST if name != "alembic/env.py"], TRACKED)
    (other,) = sdist_problems([*SDIST, ".env"], TRACKED)
    assert lacks == "the source distribution lacks alembic/env.py"
    assert other == "the source distribution contains .env, which does not belong there"
