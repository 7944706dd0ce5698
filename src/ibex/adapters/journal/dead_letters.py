"""The dead-letter file: exchanges that a sink rejects for good, one JSON object a line, for an operator to inspect.

An exchange contains no secret and no message text, so this file contains none. Only its owner can read it all the same.
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
    """Append one line to the file.

    Drop it if the file would exceed ``MAX_BYTES`` or cannot be written; the caller counts every dead letter.
    """
    try:
        line = msgspec.json.encode({"sink": sink.value, "reason": reason, **letter}) + b"\n"
    except ValueError:  # a lone surrogate, which UTF-8 cannot encode
        line = msgspec.json.encode({"sink": sink.value, "reason": reason, "id": str(letter.get("id"))}) + b"\n"
    with suppress(OSError):
        file = os.open(directory / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(file).st_size + len(line) <= MAX_BYTES:
                os.write(file, line)
        finally:
            os.close(file)
