"""The provider's last failure, from the access log of a running proxy, whose key this process does not have."""

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
class ProviderFailure:
    """The failure of a request, and its time. One of the other two fields is set.

    ``refused_as`` is the status (401 or 403) with which the provider refused the key. ``connect_failure`` names its
    host and the reason why no connection was made.
    """

    at: str
    refused_as: int | None = None
    connect_failure: str | None = None


def last_failure(log: Path) -> ProviderFailure | None:
    """Return the failure of the last request in the log that was sent to a provider; None for any other outcome.

    Reads at most the last MiB of the log.
    """
    for line in reversed(_last_lines(log)):
        entry = _access_line(line)
        if entry.get("attempts"):
            at, status, unreached = (entry.get(name) for name in ("timestamp", "provider_status", "connect_failure"))
            if status in KEY_REFUSED:
                return ProviderFailure(str(at), refused_as=status)
            return ProviderFailure(str(at), connect_failure=unreached) if isinstance(unreached, str) else None
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
