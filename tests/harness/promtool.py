"""promtool, Prometheus' own check of rule files: from the PATH, else from Debian's package, unpacked without root."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).parents[2] / ".ibex" / "debian" / "prometheus"
DOWNLOAD_TIMEOUT_S: Final = 120


def promtool_program() -> str | None:
    """Return the path of promtool, after fetching Debian's package if necessary; None if that is not possible."""
    found = shutil.which("promtool")
    if found is not None:
        return found
    program = CACHE / "usr" / "bin" / "promtool"
    if not program.exists():
        _fetch()
    return str(program) if program.exists() else None


def _fetch() -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return
    with tempfile.TemporaryDirectory() as folder, suppress(subprocess.SubprocessError, OSError, ValueError):
        download = ["apt-get", "download", "prometheus"]
        subprocess.run(download, cwd=folder, check=True, capture_output=True, timeout=DOWNLOAD_TIMEOUT_S)
        (package,) = Path(folder).glob("prometheus_*.deb")
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", str(package), str(CACHE)], check=True, capture_output=True)
