"""Which IBEX is measured, and that the report says so."""

from __future__ import annotations

import json
import platform
import sys
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.proxy.installation import SOURCE, Installation, find_installation, is_optimized

if TYPE_CHECKING:
    from pathlib import Path

FACTS = {"version": "3.13.1", "is_optimized": True, "packages": {"litestar": "2.25"}, "source": str(SOURCE)}


def environment(folder: Path, facts: dict[str, Any], code: int = 0) -> Path:
    """Make what answers as the interpreter of an environment would."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\nexit {code}\n")
    python.chmod(0o755)
    return python


def test_what_users_have_is_measured_where_it_is(tmp_path: Path) -> None:
    """With its own Python and its own libraries."""
    python = environment(tmp_path, FACTS)

    found = find_installation(python)

    assert found == Installation(str(python), True, "3.13.1", True, {"litestar": "2.25"})  # noqa: FBT003 - as told
    assert str(found) == "IBEX as its users install it, Python 3.13.1, an optimized build"


@pytest.mark.parametrize(
    ("facts", "code"), [(FACTS, 1), ({**FACTS, "source": "elsewhere"}, 0)], ids=["no IBEX", "of another source"]
)
def test_else_it_is_what_development_has(tmp_path: Path, facts: dict[str, Any], code: int) -> None:
    """Where there is no such environment, IBEX cannot be imported there, or it is not the one of this commit."""
    for python in (tmp_path / "none", environment(tmp_path, facts, code)):
        found = find_installation(python)

        assert (found.python, found.is_of_users, found.version) == (sys.executable, False, platform.python_version())
        assert found.packages["litestar"]
        assert str(found).startswith("IBEX in the development environment, Python 3.")


@pytest.mark.parametrize(
    ("arguments", "flags", "schemes", "optimized"),
    [
        ("'--enable-shared' '--enable-optimizations'", "-O3", ["posix_prefix"], True),
        ("'--enable-shared'", "-O3 -fprofile-use -fprofile-correction", ["posix_prefix"], True),
        ("'--with-system-expat'", "-O2", ["deb_system", "posix_prefix"], True),
        ("'--enable-shared'", "-O3", ["posix_prefix"], False),
    ],
    ids=["the option", "the flags", "Debian's", "none"],
)
def test_an_optimized_build_is_recognized(arguments: str, flags: str, schemes: list[str], *, optimized: bool) -> None:
    """By how it was configured, or by whose it is."""
    assert is_optimized(arguments, flags, schemes) is optimized
