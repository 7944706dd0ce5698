"""Wait until a descriptor is readable, whatever its number: ``select`` takes none above 1,023."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from socket import socket


def is_readable(file: socket | int, timeout_s: float) -> bool:
    """Return whether a descriptor becomes readable, or is closed by its other end, within the timeout in seconds."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(timeout_s * 1_000))
