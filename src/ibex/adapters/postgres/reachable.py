"""Why PostgreSQL cannot be connected to, for who looks for a fault: the pool only says that it waited in vain."""

from __future__ import annotations

from typing import Final

import psycopg

_TIMEOUT_S: Final = 3
# libpq knows these failures by their words alone. Words of our own are shown for them, since a message may quote
# whatever stands in the URL.
_REASONS: Final = (
    ("password authentication failed", "it refuses the password"),
    ("no password supplied", "it wants a password"),
    ("no pg_hba.conf entry", "it does not let this user in from here (pg_hba.conf)"),
    ("does not exist", "there is no such database, or no such role"),
    ("too many", "it has too many connections"),
    ("Connection refused", "nothing listens there"),
    ("timeout", "there is no answer"),
    ("host name", "the host's name is not known"),
    ("Name or service not known", "the host's name is not known"),
    ("SSL", "TLS does not come about"),
)


async def why_unreachable(url: str) -> str | None:
    """Connect once and return why it fails, None if it does not. Takes three seconds at most; shows no secret."""
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=_TIMEOUT_S)
    except psycopg.Error as error:
        return reason_of(error)
    await connection.close()
    return None


def reason_of(error: psycopg.Error) -> str:
    """Return why a connection did not come about, in words that hold nothing of its URL."""
    message = str(error)
    return next((reason for words, reason in _REASONS if words in message), "it cannot be connected to")
