"""Process tuning: garbage collector (ADR 0033), malloc (ADR 0034), limit and table of open files (ADR 0035, 0037)."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import resource
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ibex.entrypoints.settings import Settings

GC_THRESHOLDS: Final = (50_000, 20, 20)
KEPT_BYTES: Final = 64 << 20
"""The process keeps this much freed memory, and returns what is beyond it to the kernel."""
_LARGEST_KEPT_BYTES: Final = 32 << 20
"""A larger block returns to the kernel as soon as it is freed. glibc accepts no higher limit."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
PER_REQUEST: Final = 2
"""One connection to the client, and one to the provider."""
RESERVED_DESCRIPTORS: Final = 320
"""Descriptors for everything but requests: databases, the journal, and connections that are about to be closed."""
MAX_OPEN_FILES: Final = 1 << 20
"""The highest soft limit to set. Some systems allow a thousand times more, and programs size tables by the limit."""
_LOG: Final = logging.getLogger("ibex.descriptors")


def collect_rarely() -> None:
    """Raise the thresholds of the garbage collector.

    With the default thresholds, the collector scans imported modules repeatedly, which takes a sixth of the start-up
    time, and later the objects of requests in flight, while other requests wait. Requests leave no cycles behind.
    """
    gc.set_threshold(*GC_THRESHOLDS)


def keep_freed_memory() -> bool:
    """Make the allocator keep freed memory for reuse. Return False if the C library has no such setting (musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES))


def prepare_descriptors(settings: Settings) -> None:
    """Raise the soft limit of open files to the hard limit, and grow the kernel's table for the requests.

    Log a warning if the limit is too low for ``IBEX_MAX_CONCURRENCY``. Call this before the process starts threads.
    """
    allowed = raise_limit()
    wanted = PER_REQUEST * settings.max_concurrency + RESERVED_DESCRIPTORS
    if allowed < wanted:
        _LOG.warning(
            "The limit of open files is %d, too low for IBEX_MAX_CONCURRENCY=%d, which needs %d. This process takes at "
            "most %d client connections. Raise the hard limit (ulimit -Hn, or LimitNOFILE in systemd).",
            allowed,
            settings.max_concurrency,
            wanted,
            connection_limit(settings),
        )
    make_room_for_descriptors(min(wanted, allowed))


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard limit, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):  # some systems allow less than the hard limit
            return soft
        return most
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def connection_limit(settings: Settings) -> int:
    """Return the maximum of client connections that the limit of open files allows a worker.

    Clients get at least half of the descriptors that are not reserved, and more if the provider needs less than half.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = max(2, (MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft) - RESERVED_DESCRIPTORS)
    to_provider = min(settings.openai_max_connections, settings.max_concurrency, free // 2)
    return min(settings.max_connections, free - to_provider)


def make_room_for_descriptors(count: int) -> None:
    """Grow the kernel's table of this process's open files to this size.

    The table grows when it is full. In a process of several threads, a thread that opens a file then waits until no
    processor can still be reading the old table: an event loop stood still for 10 to 20 ms each time its connections
    had doubled.
    """
    try:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no free descriptor
        return
    try:
        os.close(fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, count - 1))
    except (OSError, ValueError):  # the last descriptor is in use: the table has its full size
        pass
    finally:
        os.close(null)
