"""The settings of the way to the provider."""

from __future__ import annotations

import pytest

from ibex.adapters.http_client.httpx_transport import CancelSafeTransport
from ibex.adapters.http_client.transport import Http1Transport
from ibex.entrypoints.environments import EmbeddedAdapters
from ibex.entrypoints.openai_settings import Transport
from ibex.entrypoints.settings import Settings, SettingsError


@pytest.mark.parametrize(
    ("name", "kind"),
    [("direct", Http1Transport), ("httpx", CancelSafeTransport), ("http2", CancelSafeTransport)],
)
def test_each_transport_can_be_chosen(name: str, kind: type) -> None:
    """By its name alone."""
    settings = Settings.load({"IBEX_OPENAI_TRANSPORT": name})
    assert settings.openai_transport is Transport(name)
    assert isinstance(EmbeddedAdapters(settings=settings).transport(), kind)


def test_the_default_is_the_fastest() -> None:
    """Nobody has to know of the others."""
    assert Settings.load({}).openai_transport is Transport.DIRECT


@pytest.mark.parametrize(
    ("variable", "value"), [("IBEX_OPENAI_TRANSPORT", "carrier"), ("IBEX_OPENAI_MAX_CONNECTIONS", "0")]
)
def test_wrong_values_are_told(variable: str, value: str) -> None:
    """With the variable, the value and what is allowed."""
    with pytest.raises(SettingsError, match=f"{variable} is '{value}'; allowed: "):
        Settings.load({variable: value})


def test_the_headers_to_the_provider() -> None:
    """They are secrets: in no repr."""
    settings = Settings.load({"IBEX_OPENAI_HEADERS": "OpenAI-Project: canary-1\nOpenAI-Organization: canary-2"})
    assert settings.openai_headers is not None
    assert settings.openai_headers.reveal() == (("openai-project", "canary-1"), ("openai-organization", "canary-2"))
    assert "canary" not in repr(settings)
    assert Settings.load({}).openai_headers is None


@pytest.mark.parametrize(
    ("value", "reason"), [("Host: canary-1", "the header host is set by IBEX itself"), ("canary-1", "header 1 is not")]
)
def test_a_header_that_cannot_be_used(value: str, reason: str) -> None:
    """Told at start, with the reason and without its value."""
    with pytest.raises(SettingsError, match=r"IBEX_OPENAI_HEADERS is \(a secret, not shown\); ") as raised:
        Settings.load({"IBEX_OPENAI_HEADERS": value})
    assert reason in str(raised.value)
    assert "canary" not in str(raised.value)


def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at start, without its address."""
    monkeypatch.setenv("https_proxy", "gopher://user:canary@proxy.example")
    adapters = EmbeddedAdapters(settings=Settings.load({"IBEX_OPENAI_TRANSPORT": "httpx"}))
    with pytest.raises(SettingsError, match="IBEX_OPENAI_TRANSPORT is 'httpx', but ") as raised:
        adapters.transport()
    assert "canary" not in str(raised.value)
