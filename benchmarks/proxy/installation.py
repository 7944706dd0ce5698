"""The measured installation of IBEX: as users install it, without extras, or the development environment.

In the latter, its libraries find and import development packages (pydantic, OpenTelemetry, werkzeug, psutil), which use
memory that a user's worker does not need. As a program, this module describes its interpreter.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src" / "ibex"
PYTHON_OF_USERS: Final = ROOT / ".venv-bench" / "bin" / "python"
_PROCESSES: Final = ("ibex.entrypoints.cli", "ibex.entrypoints.auth", "ibex.entrypoints.containers")
_PACKAGES: Final = ("litestar", "uvicorn", "uvloop", "httptools", "msgspec", "grpcio", "psycopg", "hiredis")


@dataclass(frozen=True, slots=True)
class Installation:
    """An interpreter with IBEX, which runs auth and the proxies, and the versions of its libraries."""

    python: str
    is_of_users: bool
    version: str
    is_optimized: bool
    packages: Mapping[str, str]

    def __str__(self) -> str:
        installed = "as its users install it" if self.is_of_users else "in the development environment"
        build = "an optimized build" if self.is_optimized else "not an optimized build"
        return f"IBEX {installed}, Python {self.version}, {build}"


def find_installation(of_users: Path = PYTHON_OF_USERS) -> Installation:
    """Return the users' installation if it can import the processes of this source, else this interpreter's."""
    try:
        asked = subprocess.run([of_users, "-I", __file__], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pass
    else:
        facts = json.loads(asked.stdout)
        if facts.pop("source") == str(SOURCE):
            return Installation(str(of_users), is_of_users=True, **facts)
    return Installation(sys.executable, is_of_users=False, **_facts())


def is_optimized(arguments: str, flags: str, schemes: Sequence[str]) -> bool:
    """Tell from its configuration whether an interpreter was built with profile-guided optimization.

    Debian and Ubuntu optimize theirs without the option and leave no trace of the flags. They are recognized by an
    installation scheme that only they have.
    """
    return "--enable-optimizations" in arguments or "-fprofile-use" in flags or "deb_system" in schemes


def _facts() -> dict[str, Any]:
    arguments, flags = sysconfig.get_config_vars("CONFIG_ARGS", "PY_CORE_CFLAGS")
    return {
        "version": platform.python_version(),
        "is_optimized": is_optimized(str(arguments), str(flags), sysconfig.get_scheme_names()),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def main() -> None:
    """Import the modules of the processes, and write the facts as JSON."""
    for name in _PROCESSES:
        importlib.import_module(name)
    source = Path(str(sys.modules["ibex"].__file__)).parent
    sys.stdout.write(json.dumps({**_facts(), "source": str(source)}))


if __name__ == "__main__":
    main()
