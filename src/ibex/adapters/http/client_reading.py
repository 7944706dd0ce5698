"""Whether a client reads what is sent to it, and how fast (ADR 0037)."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ibex.adapters.http.connections import ConnectionLimits

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_BYTES_ACKED: Final = struct.Struct("@Q")
_BYTES_ACKED_AT: Final = 120
"""Where ``tcpi_bytes_acked`` is in Linux's ``struct tcp_info``."""
_AT_ONCE: Final = struct.pack("@ii", 1, 0)
_LOOKS: Final = 4
"""How often a client is looked at within the shorter of its two time limits."""


class ClientReading:
    """Aborts a connection whose client leaves bytes waiting and reads too slowly, or not at all.

    It watches from ``begin`` until nothing waits. Progress is what the client's end has acknowledged: the buffer of the
    transport shrinks only when the kernel's own has room, which is megabytes later.
    """

    __slots__ = ("_due", "_limits", "_progress_at", "_since", "_taken", "_taken_since", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, limits: ConnectionLimits) -> None:
        self._transport = transport
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._since = 0.0
        self._progress_at = 0.0
        self._taken = 0
        self._taken_since = 0

    def begin(self) -> None:
        """Watch from now on. Idempotent."""
        if self._timer is None:
            self._since = self._progress_at = asyncio.get_running_loop().time()
            self._taken = self._taken_since = self._bytes_taken()
            self._look_later(self._since)

    def end(self) -> None:
        """Do not watch any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self, now: float) -> None:
        self._due = now + min(self._limits.stall_s, self._limits.slow_s) / _LOOKS
        self._timer = asyncio.get_running_loop().call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._transport.get_write_buffer_size():
            return
        now, taken, limits = asyncio.get_running_loop().time(), self._bytes_taken(), self._limits
        late = now - self._due  # the event loop stood still, not the client
        self._since += late
        self._progress_at += late
        if taken != self._taken:
            self._taken, self._progress_at = taken, now
        in_window = taken - self._taken_since
        if in_window >= limits.min_bytes_per_s * limits.slow_s:  # the next window begins where this much is used up
            self._since = min(now, self._since + in_window / limits.min_bytes_per_s)
            self._taken_since = taken
        is_slow = bool(in_window) and now - self._since >= limits.slow_s
        if is_slow or now - self._progress_at >= limits.stall_s:
            self._reset()
        else:
            self._look_later(now)

    def _reset(self) -> None:
        """Abort, and let the system drop what it holds for the client as well, which may be megabytes."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def _bytes_taken(self) -> int:
        """Return how many bytes the client's end has acknowledged, else what the transport's buffer lacks to be full.

        The latter, on systems that do not tell, is only good for comparing.
        """
        sock = self._transport.get_extra_info("socket")
        if _TCP_INFO is not None and sock is not None and sock.family != socket.AF_UNIX:
            info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_ACKED_AT + _BYTES_ACKED.size)
            if len(info) == _BYTES_ACKED_AT + _BYTES_ACKED.size:
                acked: int = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)[0]
                return acked
        return -self._transport.get_write_buffer_size()
