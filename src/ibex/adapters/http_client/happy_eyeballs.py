"""Connect to a host with several addresses: attempts overlap, and the first success wins (RFC 8305, Happy Eyeballs).

asyncio's ``create_connection`` can race addresses, but uvloop's tries one after the other (ADR 0054).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

ATTEMPT_DELAY_S: Final = 0.25
"""The delay in seconds before the next address is tried in parallel (RFC 8305, section 5)."""
_IN_PROGRESS: Final = frozenset({errno.EINPROGRESS, errno.EINTR})

AddressInfo: TypeAlias = "tuple[int, int, int, str, Any]"
"""An address as ``getaddrinfo`` returns it: family, type, protocol, canonical name, and the socket address."""
Resolver: TypeAlias = "Callable[[str, int], Awaitable[Sequence[AddressInfo]]]"
"""A function that returns the addresses of a host and port in order of preference, or raises ``OSError``."""


async def resolve(host: str, port: int) -> Sequence[AddressInfo]:
    """Return the addresses of a host, in the order of the system's resolver. Raises ``socket.gaierror``."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(int(family), int(kind), proto, name, address) for family, kind, proto, name, address in found]


def interleaved(addresses: Sequence[AddressInfo]) -> Sequence[AddressInfo]:
    """Return the addresses with alternating families, the first address's family first (RFC 8305, section 4)."""
    by_family: dict[int, list[AddressInfo]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    return [address for address in chain(*zip_longest(*by_family.values())) if address is not None]


async def connect(addresses: Sequence[AddressInfo], *, delay_s: float = ATTEMPT_DELAY_S) -> socket.socket:
    """Return a socket that is connected to the first address that accepts. Close the other attempts.

    The next attempt begins when the previous one fails, or after ``delay_s`` seconds without a result. If all attempts
    fail, raises the ``OSError`` of the first failure. There is no time limit. Cancellation closes all sockets at once.
    """
    race = _Race(interleaved(addresses), delay_s)
    try:
        race.begin_next()
        return await race.winner
    except BaseException:
        race.abandon()
        raise
    finally:
        del race  # break the reference cycle: the exception in its future refers to this frame


class _Race:
    """The attempts of one call of ``connect``. Its clean-up never awaits (ADR 0025)."""

    def __init__(self, addresses: Sequence[AddressInfo], delay_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._delay_s = delay_s
        self._not_begun = deque(addresses)
        self._connecting: set[socket.socket] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._failure: OSError | None = None
        self.winner: asyncio.Future[socket.socket] = self._loop.create_future()

    def begin_next(self) -> None:
        """Begin the next attempt. If all attempts have failed, set the first failure on ``winner``."""
        self._stop_timer()
        while self._not_begun and not self.winner.done():
            if self._begin(self._not_begun.popleft()):
                if self._not_begun:
                    self._timer = self._loop.call_later(self._delay_s, self.begin_next)
                return
        if not self._connecting and not self.winner.done():
            self.winner.set_exception(self._failure or OSError("the host has no address"))

    def abandon(self) -> None:
        """Close every socket, including the winner if the caller has not received it. Idempotent."""
        self._stop_timer()
        self._close_attempts()
        if self.winner.done() and not self.winner.cancelled() and self.winner.exception() is None:
            self.winner.result().close()

    def _begin(self, info: AddressInfo) -> bool:
        """Begin an attempt. Return False if it fails at once."""
        family, kind, protocol, _, address = info
        try:
            connecting = socket.socket(family, kind, protocol)
        except OSError as error:  # a family that the machine does not support, or no file descriptor
            self._failed(error)
            return False
        try:
            connecting.settimeout(0)
            code = connecting.connect_ex(address)
        except BaseException:
            connecting.close()
            raise
        if code and code not in _IN_PROGRESS:
            connecting.close()
            self._failed(_connect_error(code))
            return False
        self._connecting.add(connecting)
        self._loop.add_writer(connecting, self._ended, connecting)
        return True

    def _ended(self, connecting: socket.socket) -> None:
        """Handle the end of an attempt. The event loop calls this when the socket becomes writable."""
        self._loop.remove_writer(connecting)
        self._connecting.discard(connecting)
        code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code or self.winner.done():
            connecting.close()
            if code:
                self._failed(_connect_error(code))
                self.begin_next()
            return
        self._stop_timer()
        self._close_attempts()
        self.winner.set_result(connecting)

    def _failed(self, error: OSError) -> None:
        self._failure = self._failure or error

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_attempts(self) -> None:
        while self._connecting:
            connecting = self._connecting.pop()
            self._loop.remove_writer(connecting)
            connecting.close()


def _connect_error(code: int) -> OSError:
    """Return the error for an ``errno`` code, without the address: messages name the provider by its host."""
    return OSError(code, errno.errorcode.get(code, "unknown error"))
