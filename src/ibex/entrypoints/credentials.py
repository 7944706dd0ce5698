"""Checks of credentials for production: whether a URL has one, and whether a secret is easily guessed (ADR 0039).

The checks open no connection.
"""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote

from ibex.entrypoints.url_syntax import split_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from urllib.parse import SplitResult


class Server(StrEnum):
    """The servers that need a credential, by their names in ``IBEX_ALLOW_INSECURE``."""

    REDIS = "redis"
    CLICKHOUSE = "clickhouse"
    POSTGRES = "postgres"


SERVER_OF: Final[Mapping[str, Server]] = {
    "database_url": Server.POSTGRES,
    "auth_database_url": Server.POSTGRES,
    "owner_database_url": Server.POSTGRES,
    "clickhouse_url": Server.CLICKHOUSE,
    "redis_url": Server.REDIS,
}
"""The server of each URL setting."""

WORDS: Final = frozenset(
    {
        *("admin", "administrator", "root", "default", "guest", "user", "test", "testing", "dev", "demo", "example"),
        *("password", "passwd", "pass", "secret", "changeme", "letmein", "welcome", "qwerty", "abc", "token", "key"),
        *("ibex", "ibexapp", "ibexauth", "ibexowner", "postgres", "postgresql", "redis", "clickhouse", "foobared"),
    }
)
_PLACEHOLDERS: Final = ("changeme", "replaceme", "placeholder", "example", "yourtoken", "yoursecret", "insertyour")
_FEW_DIGITS: Final = 8
_FEW_CHARACTERS: Final = 8
_LIBPQ_PASSWORD: Final = "PGPASSWORD"  # noqa: S105 - a variable's name


def has_credential(server: Server, url: str, environ: Mapping[str, str]) -> bool:
    """Return whether a URL authenticates by a password, a certificate, a token or a local socket.

    ``environ`` is the environment, from which libpq also reads a password and a host.
    """
    parts = split_url(url)
    if any(passwords_in(url)):
        return True
    return _OTHERWISE[server](parts, dict(parse_qsl(parts.query)), environ)


def passwords_in(url: str) -> Sequence[str]:
    """Return the passwords in a URL, both before the host and in the query, where client libraries accept them too."""
    parts = split_url(url)
    found = [unquote(parts.password)] if parts.password else []
    return found + [value for name, value in parse_qsl(parts.query) if name in {"password", "sslpassword"} and value]


def is_weak_url(url: str) -> bool:
    """Return whether a URL has a password that is easily guessed, such as the user name."""
    parts = split_url(url)
    users = {unquote(parts.username or ""), *(v for k, v in parse_qsl(parts.query) if k in {"user", "username"})}
    return any(is_weak_password(password) or password in users for password in passwords_in(url))


def is_weak_password(password: str) -> bool:
    """Return whether a password is a well-known word, with or without a number after it, or a pattern."""
    letters = re.sub(r"[^a-z0-9]", "", password.lower())
    if letters.isdecimal() and len(letters) < _FEW_DIGITS:
        return True
    return letters.rstrip("0123456789") in WORDS or letters in WORDS or is_pattern(password.encode())


def is_weak_token(token: str) -> bool:
    """Return whether a long credential is a pattern, has few different characters, or is a placeholder."""
    letters = re.sub(r"[^a-z0-9]", "", token.lower())
    return is_pattern(token.encode()) or len(set(token)) < _FEW_CHARACTERS or any(w in letters for w in _PLACEHOLDERS)


def is_weak_key(key: bytes) -> bool:
    """Return whether a key is not random: a pattern, or few different bytes."""
    return is_pattern(key) or len(set(key)) < _FEW_CHARACTERS


def is_pattern(value: bytes) -> bool:
    """Return whether a value repeats a part of itself, or counts up or down."""
    if len(value) < 2:  # noqa: PLR2004 - a pattern needs two bytes
        return True
    repeats = any(value == (value[:n] * (len(value) // n + 1))[: len(value)] for n in range(1, len(value) // 2 + 1))
    steps = {later - earlier for earlier, later in pairwise(value)}
    return repeats or (len(steps) == 1 and steps <= {1, -1})


def _postgres(parts: SplitResult, query: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    if environ.get(_LIBPQ_PASSWORD) or any(query.get(name) for name in ("passfile", "sslcert")):
        return True
    inside = unquote(parts.netloc.rpartition("@")[2])
    hosts = query.get("host") or inside or environ.get("PGHOST") or "/"
    return all(host.startswith("/") for host in hosts.split(",")) and not query.get("hostaddr")


def _clickhouse(parts: SplitResult, query: Mapping[str, str], _environ: Mapping[str, str]) -> bool:
    return parts.scheme == "chdb" or any(query.get(name) for name in ("access_token", "client_cert"))


def _redis(parts: SplitResult, query: Mapping[str, str], _environ: Mapping[str, str]) -> bool:
    return parts.scheme == "unix" or bool(query.get("ssl_certfile"))


_OTHERWISE: Final[Mapping[Server, Callable[[SplitResult, Mapping[str, str], Mapping[str, str]], bool]]] = {
    Server.POSTGRES: _postgres,
    Server.CLICKHOUSE: _clickhouse,
    Server.REDIS: _redis,
}
