"""Room for the descriptors of a process that holds many connections (ADR 0035)."""

from __future__ import annotations

import fcntl
import os
import resource
from typing import Final

OF_A_REQUEST: Final = 2
"""Its client's connection, and the one to the provider."""
OF_THE_PROCESS: Final = 256
"""More than it has open without any request: its databases, its journal, connections that are kept."""


def make_room_for_descriptors(requests: int) -> None:
    """Let the kernel's table of this process's open files have room for so many requests, if so many are allowed.

    The table grows when it is full. In a process of several threads, who opens a file then waits until no processor can
    still be reading the old one: an event loop stood still for 10 to 20 ms each time its connections had doubled. So it
    is best called before there are threads.
    """
    count = OF_A_REQUEST * requests + OF_THE_PROCESS
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY:
        count = min(count, allowed)
    try:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # there is no room for one
        return
    try:
        os.close(fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, count - 1))
    except OSError:  # the last one is taken: the table is as large as it may be
        pass
    finally:
        os.close(null)
