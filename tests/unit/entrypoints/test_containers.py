"""The object graph is complete, and built once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ibex.adapters.openai.echo import EchoProvider
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.entrypoints.containers import application_of
from ibex.entrypoints.environments import EmbeddedAdapters
from ibex.entrypoints.settings import Settings, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

PEPPER = "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return settings of servers that do not exist."""
    return {
        "IBEX_DATABASE_URL": "postgresql://ibex_app@127.0.0.1:1/ibex",
        "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth@127.0.0.1:1/ibex",
        "IBEX_CLICKHOUSE_URL": "http://127.0.0.1:1",
        "IBEX_TOKEN_PEPPERS": PEPPER,
        "IBEX_JOURNAL_DIR": str(tmp_path / "journal"),
    }


def test_the_whole_application_can_be_built_without_any_server(environ: dict[str, str]) -> None:
    """The constructors do not connect. Every provider always returns the same object."""
    application = application_of(EmbeddedAdapters(), Settings.load(environ))
    for name, provider in application.providers.items():
        if name not in {"adapters", "deliveries", "observers", "settings"}:
            assert provider() is provider(), name
    assert callable(application.app())


@pytest.mark.parametrize(
    ("key", "expected"), [("", EchoProvider), ("sk-something", OpenAIProvider)], ids=["without a key", "with a key"]
)
def test_the_api_key_selects_openai_or_the_echo_provider(environ: dict[str, str], key: str, expected: type) -> None:
    """Without a key, the echo provider answers for OpenAI's models."""
    adapters = EmbeddedAdapters()
    application_of(adapters, Settings.load({**environ, "OPENAI_API_KEY": key}))
    assert isinstance(adapters.provider_registry().route("gpt-4o-mini", "chat.completions"), expected)


@pytest.mark.parametrize(
    ("variable", "value"), [("OPENAI_API_KEY", "sk-ca\u00f1ary"), ("OPENAI_BASE_URL", "https://u:p@api.example/v1")]
)
def test_a_setting_that_the_provider_cannot_use_is_an_error(environ: dict[str, str], variable: str, value: str) -> None:
    """The error names the setting without its value, which can contain a secret."""
    adapters = EmbeddedAdapters()
    application_of(adapters, Settings.load({"OPENAI_API_KEY": "sk-something", **environ, variable: value}))
    with pytest.raises(SettingsError, match=variable) as raised:
        adapters.provider_registry()
    assert value not in str(raised.value)
