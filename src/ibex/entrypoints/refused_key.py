"""Detection of a refused API key from the access log of a running proxy, whose key this process does not have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

KEY_REFUSED: Final = (401, 403)
_LOOKED_AT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """The provider's status (401 or 403), and the time of the request."""

    status: int
    at: str


def last_refusal(log: Path) -> RefusedKey | None:
    """Return the refusal of the last request in the log that reached a provider, None if it was not refused.

    Reads at most the last MiB of the log.
    """
    for line in reversed(_last_lines(log)):
        entry = _access_line(line)
        if entry.get("attempts"):
            status = entry.get("provider_status")
            return RefusedKey(status, str(entry.get("timestamp"))) if status in KEY_REFUSED else None
    return None


def _last_lines(log: Path) -> list[bytes]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOOKED_AT_BYTES))
            return file.read(_LOOKED_AT_BYTES).splitlines()
    except OSError:
        return []


def _access_line(line: bytes) -> dict[str, Any]:
    if b'"ibex.access"' not in line:
        return {}
    try:
        entry = msgspec.json.decode(line)
    except msgspec.DecodeError:  # the first line is incomplete
        return {}
    return entry if isinstance(entry, dict) else {}
