"""The clients of servers, made from the settings."""

from __future__ import annotations

import pytest

from ibex.entrypoints.environments import AuthAdapters, ProductionAdapters
from ibex.entrypoints.settings import Settings, SettingsError

ENVIRON = {
    "IBEX_DATABASE_URL": "postgresql://ibex_app@127.0.0.1:1/ibex",
    "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth@127.0.0.1:1/ibex",
    "IBEX_CLICKHOUSE_URL": "http://127.0.0.1:1",
    "IBEX_REDIS_URL": "redis://127.0.0.1:1/0",
}


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("IBEX_DATABASE_URL", "postgresql://u:p@h/d?canary=1"),
        ("IBEX_REDIS_URL", "redis://:p@h/0?canary=1"),
        ("IBEX_REDIS_URL", "redis+sentinel://:canary@h:26379"),
        ("IBEX_REDIS_URL", "redis://:p@h/0?health_check_interval=canary"),
        ("IBEX_CLICKHOUSE_URL", "http:///canary"),
    ],
)
def test_a_url_that_its_client_refuses_is_a_wrong_setting(variable: str, url: str) -> None:
    """The message names the variable, and shows no value of the URL."""
    adapters = ProductionAdapters()
    adapters.settings.override(Settings.load({**ENVIRON, variable: url}))
    client = {"IBEX_DATABASE_URL": "database", "IBEX_REDIS_URL": "link", "IBEX_CLICKHOUSE_URL": "traces"}[variable]
    with pytest.raises(SettingsError, match=f"{variable} cannot be used: ") as raised:
        adapters.providers[client]()
    assert "canary" not in str(raised.value).replace("unknown option canary", "")


def test_the_pool_and_prepared_statements_are_settings() -> None:
    """The pools of the watch and of administration have a size of their own."""
    environ = {**ENVIRON, "IBEX_DATABASE_POOL_SIZE": "3", "IBEX_DATABASE_PREPARE": "on"}
    proxy, auth = ProductionAdapters(), AuthAdapters()
    for adapters in (proxy, auth):
        adapters.settings.override(Settings.load(environ))
    assert (proxy.database().pool_size, auth.identity_database().pool_size) == (3, 3)
    assert (auth.watch_database().pool_size, auth.administration_database().pool_size) == (2, 4)
    assert proxy.database().prepares
