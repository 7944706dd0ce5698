"""What the C library's allocator does with memory that is free again (ADR 0034)."""

from __future__ import annotations

import ctypes
from typing import Final

KEPT_BYTES: Final = 64 << 20
"""So much free memory a process keeps instead of giving it back to the kernel at once."""
_LARGEST_KEPT_BYTES: Final = 32 << 20
"""A block that is larger goes back by itself when it is free; glibc takes no larger bound."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Let this process use freed memory again; False where the C library has no such setting, as musl."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES))
