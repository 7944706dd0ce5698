"""The adapters of each environment have the same names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.entrypoints.auth_connection import read_file
from ibex.entrypoints.containers import application_of
from ibex.entrypoints.environments import (
    AuthAdapters,
    EmbeddedAdapters,
    OperatorAdapters,
    ProductionAdapters,
)
from ibex.entrypoints.proxy import adapters_for
from ibex.entrypoints.settings import Settings, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

ENVIRON = {
    "IBEX_DATABASE_URL": "postgresql://ibex_app@127.0.0.1:1/ibex",
    "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth@127.0.0.1:1/ibex",
    "IBEX_CLICKHOUSE_URL": "http://127.0.0.1:1",
    "IBEX_TOKEN_PEPPERS": "k:AAECAwQFBgcICQoLDA0ODw==",
    "IBEX_REDIS_URL": "redis://127.0.0.1:1/0",
    "IBEX_AUTH_ADDRESS": "127.0.0.1:1",
}


def test_both_environments_provide_the_adapters_of_the_application() -> None:
    """Each environment also has adapters of its own."""
    wanted = {
        "clock", "ids", "settings", "traces", "journal", "metrics", "directives", "sessions", "transport",
        "provider_registry", "token_verifier", "agent_verifier", "rate_limiter", "live_tokens", "resources",
        "background", "checks", "registry", "metric_segments", "own_segment", "loop_lag",
        "watch_connector", "watch_telemetry", "cache_telemetry", "shared_directives",
    }  # fmt: skip

    assert wanted <= set(EmbeddedAdapters.providers) & set(ProductionAdapters.providers)


@pytest.mark.parametrize("environment", [EmbeddedAdapters, ProductionAdapters])
async def test_each_environment_builds_the_application_without_servers(
    environment: type[EmbeddedAdapters | ProductionAdapters], tmp_path: Path
) -> None:
    """The constructors do not connect. Every provider always returns the same object."""
    settings = Settings.load({**ENVIRON, "IBEX_JOURNAL_DIR": str(tmp_path)})
    application = application_of(environment(), settings)

    for name, provider in application.providers.items():
        if name not in {"adapters", "deliveries", "observers", "settings"}:
            assert provider() is provider(), name
    assert callable(application.app())


@pytest.mark.parametrize("environment", [OperatorAdapters, AuthAdapters])
async def test_the_other_adapters_are_complete(environment: type[OperatorAdapters | AuthAdapters]) -> None:
    """These are the adapters of the command line and of auth."""
    adapters = environment()
    adapters.settings.override(Settings.load(ENVIRON))
    adapters.check_dependencies()

    for name, provider in adapters.providers.items():
        if name in {"resources", "background"}:
            assert [id(one) for one in provider()] == [id(one) for one in provider()], name
        elif name != "checks":
            assert provider() is provider(), name


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ((), ProductionAdapters),
        (("IBEX_AUTH_ADDRESS", "IBEX_REDIS_URL"), EmbeddedAdapters),
        (("IBEX_AUTH_ADDRESS",), "IBEX_AUTH_ADDRESS is not set"),
        (("IBEX_REDIS_URL",), "IBEX_REDIS_URL is not set"),
        (("IBEX_CLICKHOUSE_URL",), "IBEX_CLICKHOUSE_URL is not set"),
    ],
)
def test_the_settings_select_the_environment(without: tuple[str, ...], expected: type | str) -> None:
    """Auth and Redis require each other and ClickHouse. The error names the missing setting."""
    settings = Settings.load({name: value for name, value in ENVIRON.items() if name not in without})

    if isinstance(expected, str):
        with pytest.raises(SettingsError, match=expected):
            adapters_for(settings)
    else:
        assert isinstance(adapters_for(settings), type(expected()))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """The error contains the path and the variable. Without a path, no file is read."""
    (tmp_path / "ca.pem").write_bytes(b"pem")

    assert read_file("IBEX_AUTH_CA_FILE", str(tmp_path / "ca.pem")) == b"pem"
    assert read_file("IBEX_AUTH_CA_FILE", None) is None
    with pytest.raises(SettingsError, match=r"IBEX_AUTH_CA_FILE is .*missing.*No such file"):
        read_file("IBEX_AUTH_CA_FILE", str(tmp_path / "missing.pem"))
