"""URLs with a user name and a password, and passwords that are not percent-encoded."""

from __future__ import annotations

import pytest

from ibex.entrypoints.settings import Settings, SettingsError
from ibex.entrypoints.url_syntax import is_well_formed

URLS = {
    "IBEX_DATABASE_URL": "postgresql://me:{}@db:5432/ibex",
    "IBEX_AUTH_DATABASE_URL": "postgresql://me:{}@one,two:5432/ibex?target_session_attrs=read-write",
    "IBEX_OWNER_DATABASE_URL": "postgresql://me:{}@db/ibex",
    "IBEX_CLICKHOUSE_URL": "https://me:{}@clickhouse:8443/ibex",
    "IBEX_REDIS_URL": "redis+sentinel://:{}@one:26379,two:26379/primary",
}
NOT_ENCODED = ("can#ary", "can/ary", "can%ary", "can?ary", "can@ary", "7/canary", "7?canary", "canary[", "canary/@/")


@pytest.mark.parametrize("variable", URLS)
@pytest.mark.parametrize("password", NOT_ENCODED)
def test_a_password_that_is_not_encoded_is_refused(variable: str, password: str) -> None:
    """The message names the variable and what to encode, and no part of the password."""
    with pytest.raises(SettingsError) as raised:
        Settings.load({variable: URLS[variable].format(password)})
    said = str(raised.value)
    assert said.startswith(f"{variable} is (a secret, not shown); ")
    assert "write # as %23, % as %25, / as %2F" in said
    assert not any(part in said for part in ("can", "ary", "me:"))


@pytest.mark.parametrize("variable", URLS)
def test_an_encoded_password_is_accepted(variable: str) -> None:
    """The value is not changed."""
    url = URLS[variable].format("c%23a%2Fn%25a%3Fr%40y:")
    settings = Settings.load({variable: url})
    assert url in {
        secret.reveal()
        for secret in (
            settings.database_url,
            settings.auth_database_url,
            settings.owner_database_url,
            settings.clickhouse_url,
            settings.redis_url,
        )
        if secret is not None
    }


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///ibex?host=/run/postgresql",
        "postgresql://ibex_app@/ibex?host=%2Frun%2Fpostgresql",
        "postgresql://ibex_app@%2Frun%2Fpostgresql/ibex",
        "postgresql://[::1]:5432/ibex",
        "postgresql://db/ibex?user=me@realm&password=secret",
        "postgresql://kim:secret@one:5432,[::1]:5432/ibex",
        "redis+sentinel://kim:secret@one:26379,[::1]:26379,two/main",
        "redis+cluster://[::1]:6379,[::2]:6379",
        "redis://localhost",
        "redis://:secret@localhost:6379/0",
        "unix:///run/@redis.sock",
        "unix://user:secret@/run/redis.sock",
        "chdb:///data/clickhouse?database=ibex",
        "chdb://",
    ],
)
def test_unusual_urls_are_well_formed(url: str) -> None:
    """Sockets, several hosts, IPv6, and parameters that contain an @."""
    assert is_well_formed(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:65536",
        "redis://h:6379:1",
        "redis+cluster://one,[two]:6379",
        "postgresql://[::1/ibex",
        "http://h:http",
    ],
)
def test_a_host_with_an_invalid_port_is_not_well_formed(url: str) -> None:
    """Client libraries would quote it, and it may be a part of a password."""
    assert not is_well_formed(url)
