"""Diagnosis of a failing connection to PostgreSQL. The pool's own error only reports a timeout."""

from __future__ import annotations

import re
from typing import Final

import psycopg

OLDEST_VERSION: Final = 15
_TIMEOUT_S: Final = 3
_VERSION_DIVISOR: Final = 10_000
_MOST_CHARACTERS: Final = 200
# libpq has no codes for these failures, so they are recognized by its message. The first matching entry applies.
_REASONS: Final = (
    ("unsupported startup parameter", "the server, often a pooler, refuses a start-up parameter of the URL"),
    ("password authentication failed", "the server refuses the password"),
    ("SASL authentication failed", "the server refuses the password"),
    ("no password supplied", "the server requires a password, and the URL has none"),
    ("no encryption", "the server requires TLS from this host; add sslmode=verify-full to the URL"),
    ("SSL off", "the server requires TLS from this host; add sslmode=verify-full to the URL"),
    ("SSL required", "the server requires TLS; add sslmode=verify-full to the URL"),
    ("no pg_hba.conf entry", "pg_hba.conf does not allow this user to connect from this host"),
    ("server does not support SSL", "the server does not support TLS, which the URL requires by sslmode"),
    ("certificate verify failed", "the server's certificate is not signed by the root certificate of the URL"),
    ("root certificate file", "the root certificate of the URL (sslrootcert) cannot be read"),
    ("does not match host name", "the server's certificate is for another host name"),
    ("session is read-only", "no host of the URL is a primary (target_session_attrs)"),
    ("does not exist", "the database or the role does not exist"),
    ("no such database", "the database does not exist"),
    ("no such user", "the role does not exist"),
    ("too many", "the server has too many connections"),
    ("no more connections", "the server has too many connections"),
    ("starting up", "the server is starting"),
    ("shutting down", "the server is shutting down"),
    ("closed the connection", "the server closed the connection"),
    ("Connection reset", "the server closed the connection"),
    ("Connection refused", "no server listens at this address"),
    ("timeout", "the server does not answer"),
    ("host name", "the host name cannot be resolved"),
    ("resolve host", "the host name cannot be resolved"),
    ("Name or service not known", "the host name cannot be resolved"),
    ("SSL", "the TLS handshake failed"),
)
# A server's own words. libpq's other messages can quote any part of the URL.
_SERVER_SAYS: Final = re.compile(r"(?:FATAL|ERROR): +(.+)")


class TooOldError(Exception):
    """The server's version is not supported. The message says which one is needed."""


async def connection_failure(url: str) -> str | None:
    """Connect once. Return why it failed or cannot be used, without a secret, or None if it succeeded.

    Takes three seconds at most.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=_TIMEOUT_S)
    except psycopg.Error as error:
        return reason_of(error)
    version = connection.info.server_version
    await connection.close()
    try:
        check_version(version)
    except TooOldError as error:
        return str(error)
    return None


def check_version(version: int) -> None:
    """Raise ``TooOldError`` if a server's version, such as 150004 for 15.4, is older than ``OLDEST_VERSION``."""
    major, minor = divmod(version, _VERSION_DIVISOR)
    if major < OLDEST_VERSION:
        raise TooOldError(
            f"the server is PostgreSQL {major}.{minor}, and IBEX needs PostgreSQL {OLDEST_VERSION} or newer; upgrade it"
        )


def reason_of(error: psycopg.Error) -> str:
    """Return why a connection failed: a known reason, or else the server's own words, without control characters.

    The text contains no password: libpq's messages, which can quote the URL, are never shown.
    """
    message = str(error)
    known = next((reason for words, reason in _REASONS if words in message), None)
    if known is not None:
        return known
    said = _SERVER_SAYS.search(message)
    if said is None:
        return "the connection failed; check the URL"
    words = "".join(character for character in said[1] if character.isprintable())
    return f"the server says: {words[:_MOST_CHARACTERS]}"
