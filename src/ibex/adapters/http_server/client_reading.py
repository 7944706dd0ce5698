"""A monitor for clients that read their response too slowly (ADR 0037)."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ibex.adapters.http_server.connections import ConnectionLimits

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_BYTES_ACKED: Final = struct.Struct("@Q")
_BYTES_ACKED_AT: Final = 120
"""The offset of ``tcpi_bytes_acked`` in Linux's ``struct tcp_info``."""
_LINGER_ZERO: Final = struct.pack("@ii", 1, 0)
_CHECKS: Final = 4
"""The number of checks within the shorter of the two time limits."""


class ClientReading:
    """Aborts a connection whose client reads too slowly, or not at all, while bytes are buffered for it.

    It runs from ``begin`` until the transport's write buffer is empty. Progress is what the client's TCP has
    acknowledged: the write buffer shrinks only when the kernel's buffer has drained, which is megabytes later.
    """

    __slots__ = ("_acked", "_due", "_limits", "_progress_at", "_timer", "_transport", "_window_acked", "_window_start")

    def __init__(self, transport: asyncio.Transport, limits: ConnectionLimits) -> None:
        self._transport = transport
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._window_start = 0.0
        self._progress_at = 0.0
        self._acked = 0
        self._window_acked = 0

    def begin(self) -> None:
        """Start monitoring. Idempotent."""
        if self._timer is None:
            self._window_start = self._progress_at = asyncio.get_running_loop().time()
            self._acked = self._window_acked = self._bytes_acked()
            self._schedule_check(self._window_start)

    def end(self) -> None:
        """Stop monitoring. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule_check(self, now: float) -> None:
        self._due = now + min(self._limits.stall_s, self._limits.slow_s) / _CHECKS
        self._timer = asyncio.get_running_loop().call_at(self._due, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self._transport.get_write_buffer_size():
            return
        now, acked, limits = asyncio.get_running_loop().time(), self._bytes_acked(), self._limits
        late = now - self._due  # the event loop was blocked; do not blame the client
        self._window_start += late
        self._progress_at += late
        if acked != self._acked:
            self._acked, self._progress_at = acked, now
        in_window = acked - self._window_acked
        if in_window >= limits.min_bytes_per_s * limits.slow_s:  # the next window begins when these bytes are used up
            self._window_start = min(now, self._window_start + in_window / limits.min_bytes_per_s)
            self._window_acked = acked
        is_slow = bool(in_window) and now - self._window_start >= limits.slow_s
        if is_slow or now - self._progress_at >= limits.stall_s:
            self._reset()
        else:
            self._schedule_check(now)

    def _reset(self) -> None:
        """Abort with a reset, so that the kernel also drops its send buffer, which may be megabytes."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()

    def _bytes_acked(self) -> int:
        """Return the number of bytes that the client's TCP has acknowledged.

        On systems without that figure, return the negative size of the write buffer, which also grows with progress.
        """
        sock = self._transport.get_extra_info("socket")
        if _TCP_INFO is not None and sock is not None and sock.family != socket.AF_UNIX:
            info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_ACKED_AT + _BYTES_ACKED.size)
            if len(info) == _BYTES_ACKED_AT + _BYTES_ACKED.size:
                acked: int = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)[0]
                return acked
        return -self._transport.get_write_buffer_size()
