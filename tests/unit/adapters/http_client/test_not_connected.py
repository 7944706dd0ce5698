"""The reasons why no connection was made."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import httpx
import pytest

from ibex.adapters.http_client.not_connected import NotConnectedError, NotConnectedInTimeError, not_connected


def caused(error: Exception, *causes: Exception) -> Exception:
    """Return the error with a chain of causes, as httpx raises it."""
    behind = error
    for cause in causes:
        behind.__cause__ = cause
        behind = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "secret"), "name not resolved"),
        (socket.gaierror(socket.EAI_AGAIN, "secret"), "name not resolved"),
        (OSError(errno.ECONNREFUSED, "secret"), "connection refused"),
        (OSError(errno.ECONNRESET, "secret"), "connection reset"),
        (OSError(errno.ENETUNREACH, "secret"), "network unreachable"),
        (OSError(errno.EACCES, "secret"), os.strerror(errno.EACCES)),
        (ssl.SSLError("secret"), "the TLS handshake failed"),
        (ssl.SSLCertVerificationError("secret"), "the TLS certificate is not valid (verification failed)"),
        (ValueError("secret"), "the connection failed"),
        (caused(httpx.ConnectError("secret"), OSError("secret"), ConnectionRefusedError()), "connection refused"),
        (caused(OSError("secret"), ExceptionGroup("", [ConnectionRefusedError(), OSError()])), "connection refused"),
    ],
)
def test_the_reason_is_a_text_of_ours(error: Exception, reason: str) -> None:
    """The text of an exception may name a proxy with its password, so it is not used."""
    failure = not_connected(error, "api.openai.com", 443)
    assert type(failure) is NotConnectedError
    assert str(failure) == f"cannot connect to api.openai.com: {reason}"


@pytest.mark.parametrize("error", [TimeoutError(), httpx.ConnectTimeout("secret"), OSError(errno.ETIMEDOUT, "")])
def test_a_timeout_stays_a_timeout(error: Exception) -> None:
    """The client gets another error code for it."""
    failure = not_connected(error, "api.openai.com", None)
    assert type(failure) is NotConnectedInTimeError
    assert str(failure) == "cannot connect to api.openai.com: no answer in time"


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [("127.0.0.1", 9, "127.0.0.1:9"), ("::1", 9, "[::1]:9"), ("localhost", 80, "localhost"), ("::1", None, "[::1]")],
)
def test_the_server_is_named_with_its_port(host: str, port: int | None, shown: str) -> None:
    """A default port is omitted."""
    assert str(not_connected(ConnectionRefusedError(), host, port)) == f"cannot connect to {shown}: connection refused"
