"""The comparison of a wheel and a source distribution with the files of the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_METADATA: Final = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
_NEEDED: Final = ("ibex/py.typed", "ibex/_migrations/postgres/env.py")
_GENERATED: Final = ("PKG-INFO",)


def wheel_problems(names: Iterable[str], tracked: Iterable[str], version: str) -> list[str]:
    """Return what a wheel lacks, and what it contains besides, nothing if it is right.

    It must contain the tracked files of ``src/ibex``, those of ``alembic`` as ``ibex/_migrations/postgres``, and its
    metadata.
    """
    info = f"ibex_harness-{version}.dist-info"
    wanted = {name.removeprefix("src/") for name in tracked if name.startswith("src/ibex/")}
    wanted |= {f"ibex/_migrations/postgres/{name.removeprefix('alembic/')}" for name in _below("alembic/", tracked)}
    wanted |= {f"{info}/{name}" for name in _METADATA} | set(_NEEDED)
    found = set(names)
    return _difference("the wheel", wanted, found, found - wanted)


def sdist_problems(names: Iterable[str], tracked: Iterable[str]) -> list[str]:
    """Return what a source distribution lacks to build the wheel, and which of its files are not tracked."""
    known = set(tracked)
    wanted = {name for name in known if name.startswith(("src/", "alembic/"))}
    wanted |= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", *_GENERATED}
    found = set(names)
    return _difference("the source distribution", wanted, found, found - known - set(_GENERATED))


def _below(folder: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(folder)]


def _difference(what: str, wanted: set[str], found: set[str], others: set[str]) -> list[str]:
    missing = [f"{what} lacks {name}" for name in sorted(wanted - found)]
    return missing + [f"{what} contains {name}, which does not belong there" for name in sorted(others)]
