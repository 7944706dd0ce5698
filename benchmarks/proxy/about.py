"""The machine, the time and the versions of a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from benchmarks.proxy.gateways import GATEWAYS

from harness.nginx import nginx_program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.proxy.targets import Scene

_VERSION: Final = re.compile(r"\d+\.\d+(?:\.\d+)*")


class _Peer(Protocol):
    @property
    def package(self) -> str: ...

    @property
    def is_installed(self) -> bool: ...


def describe(scene: Scene) -> dict[str, Any]:
    """Return machine, commit, time and versions as text."""
    changed = bool(_said("git", "status", "--porcelain", "--untracked-files=no"))
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _said("git", "rev-parse", "HEAD") + (" with changes" if changed else ""),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "installation": str(scene.installation),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": _versions(scene),
    }


def _versions(scene: Scene) -> dict[str, str]:
    versions = {**scene.installation.packages, "chdb": importlib.metadata.version("chdb")}
    versions["Redis"] = _version(str(scene.stack.redis.program), "--version")
    versions["nginx"] = _version(nginx_program() or "", "-v")
    versions["wrk"] = _version("wrk", "-v")
    versions["node"] = _version("node", "--version")
    versions |= installed({gateway.name: gateway for gateway in GATEWAYS})
    return {name: version for name, version in versions.items() if version}


def installed(peers: Mapping[str, _Peer]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    return {name: peer.package for name, peer in peers.items() if peer.is_installed}


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _version(*command: str) -> str:
    found = _VERSION.search(_said(*command))
    return found[0] if found else ""


def _said(*command: str) -> str:
    """Return the output of a command; empty if the command does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip()
