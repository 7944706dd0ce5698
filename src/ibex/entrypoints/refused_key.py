"""Whether the provider refuses the key of what runs on a folder: its access lines say so, its key is not known here."""

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
    """The provider's status, and the time of the request."""

    status: int
    at: str


def last_refusal(log: Path) -> RefusedKey | None:
    """Return the refusal, if the last request in the log that reached a provider got one. Reads a megabyte at most."""
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
    except msgspec.DecodeError:  # cut off, where reading began
        return {}
    return entry if isinstance(entry, dict) else {}
