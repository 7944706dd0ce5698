"""The choice of the IBEX installation to measure, and its description in the report."""

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
    """Create a script that answers like the interpreter of an environment."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\nexit {code}\n")
    python.chmod(0o755)
    return python


def test_the_environment_of_users_is_measured_if_it_exists(tmp_path: Path) -> None:
    """The report names its Python and its libraries."""
    python = environment(tmp_path, FACTS)

    found = find_installation(python)

    assert found == Installation(str(python), True, "3.13.1", True, {"litestar": "2.25"})  # noqa: FBT003 - positional fields
    assert str(found) == "IBEX as its users install it, Python 3.13.1, an optimized build"


@pytest.mark.parametrize(
    ("facts", "code"), [(FACTS, 1), ({**FACTS, "source": "elsewhere"}, 0)], ids=["no IBEX", "of another source"]
)
def test_the_development_environment_is_the_fallback(tmp_path: Path, facts: dict[str, Any], code: int) -> None:
    """It is used if the users' environment is missing, cannot import IBEX or has it from another source."""
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
    """The configure options, the compiler flags or Debian's installation scheme show it."""
    assert is_optimized(arguments, flags, schemes) is optimized
