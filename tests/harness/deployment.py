"""The files of ``deploy/``, as the programs that read them understand them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from harness.validators import ROOT
from ibex.entrypoints.settings import variables

if TYPE_CHECKING:
    from collections.abc import Iterable

DEPLOY: Final = ROOT / "deploy"
SETTINGS: Final = frozenset(variable.name for _, variable in variables())
OF_IBEX: Final = re.compile(r"^(?:IBEX|OPENAI|OTEL)_\w+$")
FLUSH_S: Final = 15
"""The time in which a process that ends flushes its journal."""


def compose() -> dict[str, Any]:
    """Return deploy/compose.yaml, with its anchors put in."""
    found: dict[str, Any] = msgspec.yaml.decode((DEPLOY / "compose.yaml").read_bytes())
    return found


def unit(name: str) -> dict[str, list[str]]:
    """Return the assignments of a systemd unit, of all its sections. An option can be assigned several times."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        if line.strip() and line[0] not in "#[":
            option, _, value = line.partition("=")
            found.setdefault(option, []).append(value)
    return found


def unit_environment(name: str) -> dict[str, str]:
    """Return the environment variables that a systemd unit sets."""
    return dict(assignment.split("=", 1) for assignment in unit(name).get("Environment", ()))


def unknown_settings(names: Iterable[str]) -> set[str]:
    """Return the names that are neither a setting nor one that is given as a file."""
    return {name for name in names if not {name, name.removesuffix("_FILE")} & SETTINGS}
