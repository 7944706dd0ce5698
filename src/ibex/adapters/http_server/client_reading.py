"""A watch over how fast a client reads its response (ADR 0037)."""

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
_AT_ONCE: Final = struct.pack("@ii", 1, 0)
_LOOKS: Final = 4
"""The number of checks within the shorter of the two time limits."""


class ClientReading:
    """Aborts a connection whose client reads too slowly, or not at all, while bytes are buffered for it.

    It runs from ``begin`` until the transport's write buffer is empty. Progress is what the client's TCP has
    acknowledged: the write buffer shrinks only when the kernel's buffer has drained, which is megabytes later.
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
        """Start to watch. Idempotent."""
        if self._timer is None:
            self._since = self._progress_at = asyncio.get_running_loop().time()
            self._taken = self._taken_since = self._bytes_taken()
            self._look_later(self._since)

    def end(self) -> None:
        """Stop watching. Idempotent."""
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
        if in_window >= limits.min_bytes_per_s * limits.slow_s:  # the next window begins when this amount is used up
            self._since = min(now, self._since + in_window / limits.min_bytes_per_s)
            self._taken_since = taken
        is_slow = bool(in_window) and now - self._since >= limits.slow_s
        if is_slow or now - self._progress_at >= limits.stall_s:
            self._reset()
        else:
            self._look_later(now)

    def _reset(self) -> None:
        """Abort with a reset, so that the kernel also drops its send buffer, which may be megabytes."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def _bytes_taken(self) -> int:
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
