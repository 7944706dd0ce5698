"""Tests of Redis URLs, and of the connections that they describe."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import UsernamePasswordCredentialProvider

from ibex.adapters.redis.credentials import credential_provider
from ibex.adapters.redis.urls import RedisAddress, Topology

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-password"


def given() -> UsernamePasswordCredentialProvider:
    """Return a provider, as an operator's factory does."""
    return UsernamePasswordCredentialProvider("kim", "from the provider")


def test_a_url_is_parsed_into_host_port_user_password_and_database() -> None:
    """Escapes are decoded. Redis' defaults apply to missing parts."""
    full = RedisAddress.parse("redis://kim:p%40ss@cache.example:6380/3").connection()
    bare = RedisAddress.parse("redis://").connection()
    path = RedisAddress.parse("unix:///run/redis.sock?db=2").connection()

    assert isinstance(full, Connection)
    assert (full.host, full.port, full.db, full.username, full.password) == ("cache.example", 6380, 3, "kim", "p@ss")
    assert isinstance(bare, Connection)
    assert (bare.host, bare.port, bare.db, bare.username, bare.password) == ("localhost", 6379, 0, None, None)
    assert isinstance(path, UnixDomainSocketConnection)
    assert (path.path, path.db) == ("/run/redis.sock", 2)


def test_a_sentinel_url_names_the_sentinels_and_the_service() -> None:
    """User, password and database belong to the Redis server. The Sentinels have separate options."""
    address = RedisAddress.parse(
        "redis+sentinel://kim:p%40ss@one:1,[::1]:2,three/main/4?sentinel_username=sam&sentinel_password=s%3At"
    )
    connection = address.connection("primary", 7)

    assert address.topology is Topology.SENTINEL
    assert (address.nodes, address.service) == ((("one", 1), ("::1", 2), ("three", 26379)), "main")
    assert isinstance(connection, Connection)
    assert (connection.host, connection.port, connection.db) == ("primary", 7, 4)
    assert (connection.username, connection.password) == ("kim", "p@ss")
    options = address.sentinel().sentinels[2].connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["username"], options["password"]) == (
        "three",
        26379,
        "sam",
        "s:t",
    )


def test_a_cluster_url_names_some_nodes() -> None:
    """A connection can go to any node, even to one that the URL does not name."""
    address = RedisAddress.parse("rediss+cluster://kim:secret@one,two:7000")
    connection = address.connection("three", 7001)

    assert (address.topology, address.nodes) == (Topology.CLUSTER, (("one", 6379), ("two", 7000)))
    assert isinstance(connection, SSLConnection)
    assert (connection.host, connection.port, connection.username) == ("three", 7001, "kim")


def test_the_repr_of_an_address_contains_no_password() -> None:
    """This applies to all kinds of URLs and to options."""
    for url in ("redis://kim:{}@localhost", "redis+sentinel://h:1/s?sentinel_password={}", "redis+cluster://:{}@h"):
        assert CANARY not in repr(RedisAddress.parse(url.format(CANARY)))


def test_tls_verifies_unless_an_option_disables_it(tmp_path: Path) -> None:
    """It uses the system's CAs, or the operator's. Certificates are read once, not for each connection."""
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    addresses = {
        options: RedisAddress.parse(f"rediss://localhost{options}")
        for options in ("", f"?ssl_ca_certs={authority}", "?ssl_cert_reqs=none")
    }
    authority.unlink()
    default, own, none = (context_of(address) for address in addresses.values())

    assert (default.verify_mode, default.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert default.minimum_version is ssl.TLSVersion.TLSv1_2
    assert own.check_hostname
    assert len(own.get_ca_certs()) == len(default.get_ca_certs()) + 1
    assert (none.verify_mode, none.check_hostname) == (ssl.CERT_NONE, False)


def context_of(address: RedisAddress) -> ssl.SSLContext:
    """Return the TLS context of a connection."""
    connection = address.connection()
    assert isinstance(connection, SSLConnection)
    return connection.ssl_context.get()


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://localhost?db=first",
        "redis://localhost?socket_timeout=3",
        "redis://localhost?ssl_ca_certs=ca.pem",
        "redis://localhost?sentinel_username=kim",
        "rediss://localhost?ssl_ca_cert=misspelt",
        "rediss://localhost?ssl_cert_reqs=sometimes",
        "rediss://localhost?ssl_ca_certs=no-such-file.pem",
        "redis+sentinel://localhost:1",
        "redis+sentinel:///service",
        "redis+sentinel://localhost:port/service",
        "redis+cluster://localhost/1",
        "redis+cluster://localhost,,localhost",
        "redis+another://localhost",
        "unix+cluster://localhost",
    ],
)
def test_an_unsupported_url_or_option_is_refused(url: str) -> None:
    """Ignoring an option would be dangerous, above all a TLS option."""
    with pytest.raises(ValueError, match=r"(?i)redis|db|port") as raised:
        RedisAddress.parse(url.replace("://", f"://kim:{CANARY}@"))

    assert CANARY not in str(raised.value)


def test_a_credential_provider_replaces_user_and_password() -> None:
    """redis-py calls the provider for each connection."""
    provider = credential_provider(f"{__name__}:given")
    connection = RedisAddress.parse("redis://kim:in-the-url@localhost", provider).connection()

    assert connection.credential_provider is provider
    assert (connection.username, connection.password) == (None, None)
