"""Listening sockets: binding them, and closing them without the loss of a connection (ADR 0060)."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG: Final = 2048
SETTLE_S: Final = 0.02
"""How long a socket still accepts connections whose handshake had begun, once it ignores new handshakes."""
_PORTS_TRIED: Final = 10
_HIGHEST_PORT: Final = 65_535
_SO_ATTACH_FILTER: Final = 26
_IGNORE_SYN: Final = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN without ACK: the first packet of a handshake
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFF_FFFF),  # accept any other packet
)
"""A program of the kernel's classic packet filter: operation, jumps and operand of each instruction."""


def listen(host: str, port: int, setting: str = "IBEX_PORT") -> socket.socket:
    """Return a bound TCP socket. Port 0 binds any free port.

    Raises ``OSError`` if the address is in use or not local. ``setting`` is the setting to change, for the message.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        in_use = error.errno == errno.EADDRINUSE
        hint = f". Choose another port with {setting} (0 for any free port)" if in_use else ""
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}{hint}") from None
    return listener


def listen_near(host: str, port: int) -> socket.socket:
    """Return a socket bound to the port, else to one of the next ports, else to any free port.

    The next ports come before others so that a restart usually finds the same one: clients have it in their URL. Raises
    ``OSError`` if the address is not local.
    """
    for candidate in range(port, min(port + _PORTS_TRIED, _HIGHEST_PORT + 1)):
        with suppress(OSError):
            return listen(host, candidate)
    return listen(host, 0)


def address_of(listener: socket.socket) -> str:
    """Return ``http://host:port`` of a bound socket, with loopback in place of a wildcard address."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


async def let_handshakes_end(listeners: Sequence[socket.socket]) -> None:
    """Make the kernel ignore new handshakes, and wait until those that have begun can be accepted.

    A connection that waits in the kernel when a socket is closed gets a reset. Its client has perhaps sent a request,
    and cannot know whether it was processed. A client whose handshake is ignored repeats it a second later, and is then
    refused. Only Linux has this filter; elsewhere, connections within a few microseconds are reset.
    """
    for listener in listeners:
        with suppress(OSError):
            _ignore_handshakes(listener)
    await asyncio.sleep(SETTLE_S)


def shut_down(listener: socket.socket) -> None:
    """Make a socket refuse connections, in every process that shares it, and close it here.

    Systems other than Linux cannot shut a listening socket down. It then refuses once all processes have closed it.
    """
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _ignore_handshakes(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *line) for line in _IGNORE_SYN))
    described = struct.pack("@HP", len(_IGNORE_SYN), ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
