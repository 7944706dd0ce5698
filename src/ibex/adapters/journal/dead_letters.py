"""Where exchanges end that a sink will never take: one JSON object a line, for a person to look at.

There is no secret and no text in an exchange, so there is none here either; the file is its owner's alone all the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from ibex.domain.record.journal import Sink

FILE: Final = "dead-letters.jsonl"
MAX_BYTES: Final = 64 * 1024 * 1024


def append_dead_letter(directory: Path, sink: Sink, reason: str, letter: dict[str, Any]) -> None:
    """Add a line, unless the file has grown too large or cannot be written: that it was lost is counted elsewhere."""
    try:
        line = msgspec.json.encode({"sink": sink.value, "reason": reason, **letter}) + b"\n"
    except ValueError:  # text that UTF-8 has no bytes for
        line = msgspec.json.encode({"sink": sink.value, "reason": reason, "id": str(letter.get("id"))}) + b"\n"
    with suppress(OSError):
        file = os.open(directory / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(file).st_size + len(line) <= MAX_BYTES:
                os.write(file, line)
        finally:
            os.close(file)
