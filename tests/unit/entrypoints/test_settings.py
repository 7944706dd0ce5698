"""Settings: read once, refused clearly, and stricter in production."""

from __future__ import annotations

import pytest

from ibex.entrypoints.setting_values import Secret
from ibex.entrypoints.settings import MissingSettingError, Settings, SettingsError

PRODUCTION = {
    "IBEX_ENV": "production",
    "OPENAI_API_KEY": "sk-something",
    "IBEX_AUTH_ADDRESS": "auth:9091",
    "IBEX_AUTH_SERVICE_TOKEN": "a-service-token-of-enough-characters",
    "IBEX_DATABASE_URL": "postgresql://ibex_app:8d1f77c2@db/ibex",
    "IBEX_REDIS_URL": "redis://:51c09fe2@redis/0",
    "IBEX_TOKEN_PEPPERS": "k1:AAECAwQFBgcICQoLDA0ODw==",
}


def test_production_takes_what_is_fit_for_it() -> None:
    """TLS with a certificate authority stands for the service credential."""
    assert Settings.load(PRODUCTION).auth_address == "auth:9091"
    without_token = {name: value for name, value in PRODUCTION.items() if name != "IBEX_AUTH_SERVICE_TOKEN"}
    assert Settings.load({**without_token, "IBEX_AUTH_CA_FILE": "/etc/ca.pem"}).auth_service_token is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IBEX_AUTH_SERVICE_TOKEN", ""),
        ("IBEX_DATABASE_URL", "postgresql://ibex_app:postgres@db/ibex"),
        ("IBEX_REDIS_URL", "redis://:password@redis/0"),
        ("IBEX_TOKEN_PEPPERS", "home:AAECAwQFBgcICQoLDA0ODw=="),
    ],
)
def test_production_refuses_what_is_fit_for_development(variable: str, value: str) -> None:
    """The variable is named, its value is not; in development it is taken."""
    wrong = {**PRODUCTION, variable: value}
    with pytest.raises(SettingsError, match=variable) as raised:
        Settings.load(wrong)
    assert not value or value not in str(raised.value)

    Settings.load({**wrong, "IBEX_ENV": "development"})


def test_production_needs_a_providers_key_only_where_the_provider_is_asked() -> None:
    """Auth, migrations and administration are not trusted with it; development has the echo."""
    keyless = {name: value for name, value in PRODUCTION.items() if name != "OPENAI_API_KEY"}
    with pytest.raises(MissingSettingError, match="OPENAI_API_KEY is not set"):
        Settings.load(keyless).require_provider()

    Settings.load(PRODUCTION).require_provider()
    Settings.load({**keyless, "IBEX_ENV": "development"}).require_provider()


def test_a_wrong_value_is_named_and_shown_unless_it_is_a_secret() -> None:
    """With what would be allowed."""
    with pytest.raises(SettingsError, match="IBEX_PORT is 'high'; allowed: 0 to 65535"):
        Settings.load({"IBEX_PORT": "high"})
    with pytest.raises(SettingsError, match=r"IBEX_DATABASE_URL is .a secret, not shown.") as raised:
        Settings.load({"IBEX_DATABASE_URL": "mysql://canary@h"})
    assert "canary" not in str(raised.value)


def test_the_budget_for_bodies_holds_a_largest_body_in_its_reserved_quarter() -> None:
    """Else an organization with nothing in flight could not send one while others use their share."""
    assert Settings().body_budget_bytes == 256 << 20
    sizes = {"IBEX_MAX_REQUEST_BODY_BYTES": "4096", "IBEX_BODY_BUDGET_BYTES": "16384"}
    assert Settings.load(sizes).body_budget_bytes == 16_384
    with pytest.raises(SettingsError, match="IBEX_BODY_BUDGET_BYTES is 16383; it must be at least 16384"):
        Settings.load({**sizes, "IBEX_BODY_BUDGET_BYTES": "16383"})


def test_what_is_empty_is_not_set() -> None:
    """As in a compose file that passes on what is not there."""
    assert Settings.load({"IBEX_PORT": " ", "IBEX_REDIS_URL": ""}) == Settings()


def test_what_is_needed_and_not_set_is_named() -> None:
    """With what it takes and what it is for; all of it at once."""
    with pytest.raises(MissingSettingError, match="IBEX_REDIS_URL is not set; it takes a redis://"):
        Settings().require("redis_url")
    with pytest.raises(MissingSettingError) as raised:
        Settings(port=1, database_url=Secret("postgresql://h")).require(
            "port", "clickhouse_url", "database_url", "auth_address"
        )
    assert [line.split()[0] for line in str(raised.value).splitlines()] == ["IBEX_CLICKHOUSE_URL", "IBEX_AUTH_ADDRESS"]
