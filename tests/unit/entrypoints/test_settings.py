"""Settings: loading, error messages, and the stricter rules of production."""

from __future__ import annotations

import pytest

from ibex.entrypoints.setting_values import Secret
from ibex.entrypoints.settings import MissingSettingError, Settings, SettingsError, variables
from ibex.entrypoints.unsafe_settings import incomplete_tls, unsafe_credential

PRODUCTION = {
    "IBEX_ENV": "production",
    "OPENAI_API_KEY": "sk-something",
    "IBEX_AUTH_ADDRESS": "auth:9091",
    "IBEX_AUTH_SERVICE_TOKEN": "a-service-token-of-enough-characters",
    "IBEX_DATABASE_URL": "postgresql://ibex_app:8d1f77c2@db/ibex",
    "IBEX_REDIS_URL": "redis://:51c09fe2@redis/0",
    "IBEX_TOKEN_PEPPERS": "k1:rk3lX0vWq1cO2bqVYp7s9g==",
}


def test_production_accepts_safe_settings() -> None:
    """A client certificate replaces the service token."""
    assert Settings.load(PRODUCTION).auth_address == "auth:9091"
    without_token = {name: value for name, value in PRODUCTION.items() if name != "IBEX_AUTH_SERVICE_TOKEN"}
    mutual = {f"IBEX_AUTH_{name}_FILE": f"/etc/{name}.pem" for name in ("CA", "CLIENT_CERT", "CLIENT_KEY")}
    assert Settings.load({**without_token, **mutual}).auth_service_token is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IBEX_AUTH_SERVICE_TOKEN", ""),
        ("IBEX_DATABASE_URL", "postgresql://ibex_app:postgres@db/ibex"),
        ("IBEX_REDIS_URL", "redis://:password@redis/0"),
        ("IBEX_REDIS_URL", "redis://redis/0?password=changeme"),
        ("IBEX_CLICKHOUSE_URL", "https://ch/ibex?username=default&password=default1"),
        ("IBEX_OWNER_DATABASE_URL", "postgresql://db/ibex?user=owner&password=owner"),
        ("IBEX_AUTH_SERVICE_TOKEN", "x" * 40),
        ("IBEX_AUTH_SERVICE_TOKEN", "0123456789abcdef" * 2),
        ("IBEX_AUTH_SERVICE_TOKEN", "replace-me-with-32-random-bytes-please"),
        ("IBEX_TOKEN_PEPPERS", "home:rk3lX0vWq1cO2bqVYp7s9g=="),
        ("IBEX_TOKEN_PEPPERS", "k:AAECAwQFBgcICQoLDA0ODw=="),
    ],
)
def test_production_refuses_credentials_for_development(variable: str, value: str) -> None:
    """The error names the variable without its value. Development accepts them."""
    wrong = {**PRODUCTION, variable: value}
    with pytest.raises(SettingsError, match=variable) as raised:
        Settings.load(wrong)
    assert not value or value not in str(raised.value)

    Settings.load({**wrong, "IBEX_ENV": "development"})


def test_production_requires_a_providers_key_only_for_the_proxy() -> None:
    """Other processes do not need the key, and development can use the echo provider."""
    keyless = {name: value for name, value in PRODUCTION.items() if name != "OPENAI_API_KEY"}
    with pytest.raises(MissingSettingError, match="OPENAI_API_KEY is not set"):
        Settings.load(keyless).require_provider()

    Settings.load(PRODUCTION).require_provider()
    Settings.load({**keyless, "IBEX_ENV": "development"}).require_provider()


def test_an_invalid_value_is_shown_unless_it_is_a_secret() -> None:
    """The error names the variable and the allowed values."""
    with pytest.raises(SettingsError, match="IBEX_PORT is 'high'; allowed: 0 to 65535"):
        Settings.load({"IBEX_PORT": "high"})
    with pytest.raises(SettingsError, match=r"IBEX_DATABASE_URL is .a secret, not shown.") as raised:
        Settings.load({"IBEX_DATABASE_URL": "mysql://canary@h"})
    assert "canary" not in str(raised.value)


def test_an_empty_variable_counts_as_not_set() -> None:
    """A compose file passes absent variables on as empty ones."""
    assert Settings.load({"IBEX_PORT": " ", "IBEX_REDIS_URL": ""}) == Settings()


def test_missing_settings_are_named_in_the_error() -> None:
    """One error lists all of them and describes their values."""
    with pytest.raises(MissingSettingError, match=r"IBEX_REDIS_URL is not set\. Set it to a redis://"):
        Settings().require("redis_url")
    with pytest.raises(MissingSettingError) as raised:
        Settings(port=1, database_url=Secret("postgresql://h")).require(
            "port", "clickhouse_url", "database_url", "auth_address"
        )
    assert [line.split()[0] for line in str(raised.value).splitlines()] == ["IBEX_CLICKHOUSE_URL", "IBEX_AUTH_ADDRESS"]
    assert raised.value.names == ["IBEX_CLICKHOUSE_URL", "IBEX_AUTH_ADDRESS"]


NO_CREDENTIAL = [
    ("IBEX_DATABASE_URL", "postgresql://ibex_app@db/ibex", "postgres"),
    ("IBEX_AUTH_DATABASE_URL", "postgresql://ibex_auth:@db/ibex", "postgres"),
    ("IBEX_OWNER_DATABASE_URL", "postgresql://db/ibex?user=o&password=", "postgres"),
    ("IBEX_DATABASE_URL", "postgresql://db/ibex?sslmode=verify-full", "postgres"),
    ("IBEX_DATABASE_URL", "postgresql:///ibex?host=/run/postgresql,db", "postgres"),
    ("IBEX_CLICKHOUSE_URL", "http://default@ch/ibex", "clickhouse"),
    ("IBEX_REDIS_URL", "redis://default@redis/0", "redis"),
    ("IBEX_REDIS_URL", "rediss://redis/0", "redis"),
]


@pytest.mark.parametrize(("variable", "url", "server"), NO_CREDENTIAL)
def test_production_refuses_a_server_without_a_credential(variable: str, url: str, server: str) -> None:
    """The error names the variable and the setting that allows it, without the URL. Development accepts it."""
    environ = {**PRODUCTION, variable: url}
    others = ",".join({"postgres", "clickhouse", "redis"} - {server})
    for allowed in ("", others):
        with pytest.raises(SettingsError, match=f"^{variable} has no password.*IBEX_ALLOW_INSECURE={server}") as raised:
            Settings.load({**environ, "IBEX_ALLOW_INSECURE": allowed})
        assert url not in str(raised.value)

    Settings.load({**environ, "IBEX_ALLOW_INSECURE": f" {server.upper()}, {server}"})
    Settings.load({**environ, "IBEX_ENV": "development"})


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("IBEX_DATABASE_URL", "postgresql://ibex_app@db/ibex?sslcert=/etc/app.pem"),
        ("IBEX_DATABASE_URL", "postgresql://ibex_app@db/ibex?passfile=/etc/pgpass"),
        ("IBEX_DATABASE_URL", "postgresql://ibex_app@/ibex?host=/run/postgresql"),
        ("IBEX_DATABASE_URL", "postgresql://ibex_app@%2Frun%2Fpostgresql/ibex"),
        ("IBEX_CLICKHOUSE_URL", "chdb:///var/lib/ibex"),
        ("IBEX_CLICKHOUSE_URL", "https://ch/ibex?access_token=f81c52"),
        ("IBEX_REDIS_URL", "unix:///run/redis.sock"),
        ("IBEX_REDIS_URL", "rediss://redis/0?ssl_certfile=/etc/ibex.pem&ssl_keyfile=/etc/ibex.key"),
        ("IBEX_REDIS_URL", "redis://redis/0?password=51c09fe2"),
    ],
)
def test_credentials_other_than_passwords_are_accepted(variable: str, url: str) -> None:
    """For example, a certificate, an access token, a local socket or a password file."""
    Settings.load({**PRODUCTION, variable: url})


def test_variables_of_libpq_are_considered() -> None:
    """PGPASSWORD is a credential, and PGHOST means that the server is not a local socket."""
    url = {"IBEX_DATABASE_URL": "postgresql:///ibex"}
    Settings.load({**PRODUCTION, **url})
    with pytest.raises(SettingsError, match="IBEX_DATABASE_URL"):
        Settings.load({**PRODUCTION, **url, "PGHOST": "db"})
    Settings.load({**PRODUCTION, **url, "PGHOST": "db", "PGPASSWORD": "8d1f77c2"})
    with pytest.raises(SettingsError, match="PGPASSWORD"):
        Settings.load({**PRODUCTION, **url, "PGHOST": "db", "PGPASSWORD": "postgres"})


@pytest.mark.parametrize("environment", ["production", "development"])
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("CLIENT_CA",), "CERT"),
        (("CERT",), "KEY"),
        (("KEY",), "CERT"),
        (("CERT", "CLIENT_CA"), "KEY"),
        (("CLIENT_CERT", "CLIENT_KEY"), "CA"),
        (("CLIENT_CERT", "CA"), "CLIENT_KEY"),
        (("CLIENT_KEY", "CA"), "CLIENT_CERT"),
    ],
    ids=str,
)
def test_incomplete_tls_is_refused(environment: str, given: tuple[str, ...], missing: str) -> None:
    """Otherwise traffic would silently be plaintext or unauthenticated. This applies to every environment."""
    files = {f"IBEX_AUTH_{name}_FILE": "/etc/file.pem" for name in given}
    with pytest.raises(SettingsError, match=f"and IBEX_AUTH_{missing}_FILE is not"):
        Settings.load({**PRODUCTION, **files, "IBEX_ENV": environment})


def test_auth_must_authenticate_proxies_in_production() -> None:
    """It needs a service token or client certificates. Development needs neither."""
    bare = {name: value for name, value in PRODUCTION.items() if not name.startswith("IBEX_AUTH_")}
    with pytest.raises(MissingSettingError, match="IBEX_AUTH_SERVICE_TOKEN is not set"):
        Settings.load(bare).require_service_identity()

    Settings.load({**bare, "IBEX_ENV": "development"}).require_service_identity()
    Settings.load({**bare, "IBEX_AUTH_SERVICE_TOKEN": PRODUCTION["IBEX_AUTH_SERVICE_TOKEN"]}).require_service_identity()
    mutual = {f"IBEX_AUTH_{name}_FILE": "/etc/file.pem" for name in ("CERT", "KEY", "CLIENT_CA")}
    Settings.load({**bare, **mutual}).require_service_identity()


def test_an_unknown_server_in_allow_insecure_is_refused() -> None:
    """A misspelled name is an error instead of being ignored."""
    with pytest.raises(SettingsError, match="IBEX_ALLOW_INSECURE is 'reddis'; allowed: redis, clickhouse or postgres"):
        Settings.load({"IBEX_ALLOW_INSECURE": "reddis"})


def test_empty_settings_are_safe() -> None:
    """The checks report nothing."""
    assert incomplete_tls(Settings(), variables()) is None
    assert unsafe_credential(Settings(), variables(), (), {}) is None
