"""Diagnosis of a failing connection to PostgreSQL. The pool's own error only reports a timeout."""

from __future__ import annotations

from typing import Final

import psycopg

_TIMEOUT_S: Final = 3
# libpq has no codes for these failures, so they are recognized by its message. The message itself is not shown, because
# it can quote any part of the URL.
_REASONS: Final = (
    ("password authentication failed", "the server refuses the password"),
    ("no password supplied", "the server requires a password, and the URL has none"),
    ("no pg_hba.conf entry", "pg_hba.conf does not allow this user to connect from this host"),
    ("does not exist", "the database or the role does not exist"),
    ("too many", "the server has too many connections"),
    ("Connection refused", "no server listens at this address"),
    ("timeout", "the server does not answer"),
    ("host name", "the host name cannot be resolved"),
    ("Name or service not known", "the host name cannot be resolved"),
    ("SSL", "the TLS handshake failed"),
)


async def connection_failure(url: str) -> str | None:
    """Connect once. Return why it failed, without a secret, or None if it succeeded. Takes three seconds at most."""
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=_TIMEOUT_S)
    except psycopg.Error as error:
        return reason_of(error)
    await connection.close()
    return None


def reason_of(error: psycopg.Error) -> str:
    """Return why a connection failed, in a text that contains no part of its URL."""
    message = str(error)
    return next((reason for words, reason in _REASONS if words in message), "the connection failed; check the URL")
