"""The exceptions for a failed connection, with messages for operators: the host and the reason."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Final, TypeAlias

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT_PORTS: Final = (None, 0, 80, 443)
_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_REASONS: Final[Mapping[type[Exception], str]] = {  # the first match counts, so the order matters
    ssl.SSLError: "the TLS handshake failed",
    socket.gaierror: "name not resolved",
    TimeoutError: "no answer in time",
    ConnectionRefusedError: "connection refused",
    ConnectionResetError: "connection reset",
}
_MAX_DEPTH: Final = 8
"""How many errors of a chain of causes are examined."""


class NotConnectedError(httpx.ConnectError):
    """No connection was made. The message names the host and the reason, and contains nothing of a request."""


class NotConnectedInTimeError(httpx.ConnectTimeout):
    """No connection was made within the time limit. The message names the host."""


NotConnected: TypeAlias = NotConnectedError | NotConnectedInTimeError


def not_connected(error: BaseException, host: str, port: int | None) -> NotConnected:
    """Return the exception for an error of connecting to a host. The message omits a default port."""
    kind = NotConnectedInTimeError if _is_timeout(error) else NotConnectedError
    shown = f"[{host}]" if ":" in host else host
    server = shown if port in _DEFAULT_PORTS else f"{shown}:{port}"
    return kind(f"cannot connect to {server}: {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """Return the reason that an error of connecting, or one of the errors that caused it, contains."""
    found: BaseException | None = error
    for _ in range(_MAX_DEPTH):
        if found is None:
            break
        reason = _own_reason(found)
        if reason is not None:
            return reason
        found = _cause(found)
    return "no answer in time" if _is_timeout(error) else "the connection failed"


def _cause(error: BaseException) -> BaseException | None:
    """Return the error behind another one. httpx raises its own, and keeps the system's as the cause."""
    if isinstance(error, BaseExceptionGroup):  # one error for each address of the host
        return error.exceptions[0]
    return error.__cause__ or error.__context__


def _own_reason(error: BaseException) -> str | None:
    """Return the reason in the error itself; None if it has none."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the TLS certificate is not valid ({getattr(error, 'verify_message', 'verification failed')})"
    known = next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), None)
    if known is not None or not isinstance(error, OSError) or error.errno is None:
        return known
    return "network unreachable" if error.errno in _UNREACHABLE else os.strerror(error.errno)


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, (TimeoutError, httpx.ConnectTimeout))
