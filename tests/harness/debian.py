"""Programs of Debian's packages, fetched and unpacked without root, for machines on which they are not installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).parents[2] / ".ibex" / "debian"
DOWNLOAD_TIMEOUT_S: Final = 120


def program_of_package(package: str, path: str) -> str | None:
    """Return a program of a Debian package, which is at ``path`` in it; None if it cannot be fetched."""
    program = CACHE / package / path
    if not program.exists():
        _fetch(package)
    return str(program) if program.exists() else None


def _fetch(package: str) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return
    with tempfile.TemporaryDirectory() as folder, suppress(subprocess.SubprocessError, OSError, ValueError):
        download = ["apt-get", "download", package]
        subprocess.run(download, cwd=folder, check=True, capture_output=True, timeout=DOWNLOAD_TIMEOUT_S)
        (fetched,) = Path(folder).glob(f"{package}_*.deb")
        (CACHE / package).mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", str(fetched), str(CACHE / package)], check=True, capture_output=True)
