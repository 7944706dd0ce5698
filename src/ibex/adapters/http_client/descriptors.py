"""Detection of connections that fail because the process or the machine has no file descriptor left."""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import time
from typing import Final

LOG_INTERVAL_S: Final = 60.0
"""The minimum time between two log lines."""
_NO_DESCRIPTOR: Final = {errno.EMFILE, errno.ENFILE}
_LOG: Final = logging.getLogger(__name__)


class _Log:
    logged_at = -math.inf


def has_no_descriptor(error: OSError) -> bool:
    """Return whether an attempt to connect failed because no file descriptor is left; log it at most once a minute.

    A failed name lookup does not report its cause, so this tries to open a file.
    """
    lacks = error.errno in _NO_DESCRIPTOR or (isinstance(error, socket.gaierror) and not _has_descriptor_left())
    if lacks:
        now = time.monotonic()
        if now - _Log.logged_at >= LOG_INTERVAL_S:
            _Log.logged_at = now
            _LOG.warning(
                "No file descriptor is left for a connection to the provider; requests get 503 OVERLOADED."
                " Raise the limit of open files (ulimit -n)."
            )
    return lacks


def _has_descriptor_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in _NO_DESCRIPTOR
    return True
