"""The URL of new connections while a password is rotated."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from ibex.adapters.postgres.credentials import RotatingUrl


class Server:
    """A server that accepts some URLs. It records the attempts."""

    def __init__(self, *accepted: str) -> None:
        self.accepted = accepted
        self.attempts: list[str] = []
        self.error: type[psycopg.Error] = psycopg.OperationalError

    async def connect(self, url: str, **_: Any) -> str:
        """Return the URL as the connection."""
        self.attempts.append(url)
        if url not in self.accepted:
            raise self.error(url)
        return url


async def test_the_former_url_is_used_until_the_server_accepts_the_new_one() -> None:
    """The file may change before the server's password. Afterwards the former URL is forgotten."""
    url, server = RotatingUrl("old"), Server("old")
    assert await url.connect(server.connect, {}) == "old"

    url.replace("new")
    url.replace("new")
    assert await url.connect(server.connect, {}) == "old"

    server.accepted = ("new",)
    assert await url.connect(server.connect, {}) == "new"
    server.accepted = ("old",)
    with pytest.raises(psycopg.OperationalError, match="new"):
        await url.connect(server.connect, {})
    assert server.attempts == ["old", "new", "old", "new", "new"]


async def test_a_server_that_does_not_answer_is_not_asked_twice() -> None:
    """A second attempt would double the time of an outage."""
    url, server = RotatingUrl("old"), Server()
    url.replace("new")
    server.error = psycopg.errors.ConnectionTimeout

    with pytest.raises(psycopg.errors.ConnectionTimeout):
        await url.connect(server.connect, {})
    assert server.attempts == ["new"]


async def test_the_class_of_a_pools_connections_uses_the_current_url() -> None:
    """The URL that the pool passes is the one of its start."""
    url = RotatingUrl("postgresql://127.0.0.1:1/one")
    url.replace("postgresql:///two?host=relative")  # libpq refuses it without opening a socket

    with pytest.raises(psycopg.OperationalError):
        await url.connection_class(psycopg.AsyncConnection).connect("postgresql://127.0.0.1:1/one", connect_timeout=1)
