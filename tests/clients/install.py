"""Install the clients at the versions of requirements.txt and package.json, into .venv-clients and .clients."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON_HOME = ROOT / ".venv-clients"
NODE_HOME = ROOT / ".clients"
_REQUIREMENTS = HERE / "requirements.txt"
_PACKAGE = HERE / "package.json"


def versions() -> dict[str, str]:
    """Return the pinned version of each package, by its name."""
    lines = [line for line in _REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    python = {f"python:{name}": version for name, _, version in (line.partition("==") for line in lines)}
    node = json.loads(_PACKAGE.read_text())["dependencies"]
    return python | {f"npm:{name}": version for name, version in node.items()}


def install() -> None:
    """Install the pinned packages if they changed, and copy the node programs beside their packages."""
    _once(PYTHON_HOME, _REQUIREMENTS, _install_python)
    _once(NODE_HOME, _PACKAGE, _install_node)
    for program in HERE.glob("*.mjs"):  # node looks for packages beside the file of a program
        shutil.copy(program, NODE_HOME)


def _once(home: Path, pins: Path, make: Callable[[], None]) -> None:
    stamp = home / f"installed-{pins.name}"
    if not stamp.exists() or stamp.read_text() != pins.read_text():
        shutil.rmtree(home, ignore_errors=True)
        make()
        stamp.write_text(pins.read_text())


def _install_python() -> None:
    subprocess.run([sys.executable, "-m", "venv", PYTHON_HOME], check=True)
    pip = [str(PYTHON_HOME / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", _REQUIREMENTS], check=True)


def _install_node() -> None:
    if shutil.which("npm") is None:
        raise SystemExit("make clients: install node 20 or newer, with npm, and run it again.")
    NODE_HOME.mkdir()
    shutil.copy(_PACKAGE, NODE_HOME)
    options = ["--silent", "--no-audit", "--no-fund", "--no-package-lock"]
    subprocess.run(["npm", "install", *options, "--prefix", NODE_HOME], check=True, cwd=NODE_HOME)
