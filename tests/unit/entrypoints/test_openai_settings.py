"""The settings of the connection to the provider."""

from __future__ import annotations

import pytest

from ibex.adapters.http_client.httpx_transport import CancelSafeTransport
from ibex.adapters.http_client.transport import Http1Transport
from ibex.domain.proxying.provider import Dialect
from ibex.entrypoints.environments import EmbeddedAdapters
from ibex.entrypoints.openai_settings import Transport
from ibex.entrypoints.settings import Settings, SettingsError


@pytest.mark.parametrize(
    ("name", "kind"),
    [("direct", Http1Transport), ("httpx", CancelSafeTransport), ("http2", CancelSafeTransport)],
)
def test_each_transport_can_be_chosen(name: str, kind: type) -> None:
    """The name of the transport is enough."""
    settings = Settings.load({"IBEX_OPENAI_TRANSPORT": name})
    assert settings.openai_transport is Transport(name)
    assert isinstance(EmbeddedAdapters(settings=settings).transport(), kind)


def test_the_default_transport_is_direct() -> None:
    """It is the fastest one, and needs no setting."""
    assert Settings.load({}).openai_transport is Transport.DIRECT


@pytest.mark.parametrize(
    ("environ", "dialect"),
    [
        ({}, Dialect()),
        ({"IBEX_OPENAI_STREAM_USAGE": "on"}, Dialect(asks_for_usage=True)),
        ({"IBEX_OPENAI_STREAM_USAGE": "Off"}, Dialect(asks_for_usage=False)),
        ({"IBEX_OPENAI_STREAM_USAGE": "pass"}, Dialect(asks_for_usage=False)),
        ({"IBEX_OPENAI_LENIENT_END": "on"}, Dialect(has_lenient_end=True)),
        ({"IBEX_OPENAI_MERGE_INSTRUCTIONS": "on"}, Dialect(merges_instructions=True)),
    ],
)
def test_the_dialect_of_a_server_can_be_set(environ: dict[str, str], dialect: Dialect) -> None:
    """The default dialect is OpenAI's."""
    settings = Settings.load({"OPENAI_API_KEY": "sk-test", **environ})
    assert (
        EmbeddedAdapters(settings=settings).provider_registry().route("gpt-4o", "chat.completions").dialect == dialect
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IBEX_OPENAI_TRANSPORT", "carrier"),
        ("IBEX_OPENAI_MAX_CONNECTIONS", "0"),
        ("IBEX_OPENAI_STREAM_USAGE", "true"),
        ("IBEX_OPENAI_LENIENT_END", "pass"),
        ("IBEX_OPENAI_MERGE_INSTRUCTIONS", "yes"),
    ],
)
def test_an_invalid_value_is_an_error(variable: str, value: str) -> None:
    """The message contains the variable, the value and the allowed values."""
    with pytest.raises(SettingsError, match=f"{variable} is '{value}'; allowed: "):
        Settings.load({variable: value})


def test_the_headers_to_the_provider() -> None:
    """They are secrets, so no repr contains them."""
    settings = Settings.load({"IBEX_OPENAI_HEADERS": "OpenAI-Project: canary-1\nOpenAI-Organization: canary-2"})
    assert settings.extra_headers.reveal() == (("openai-project", "canary-1"), ("openai-organization", "canary-2"))
    assert "canary" not in repr(settings)
    assert Settings.load({}).openai_headers is None


@pytest.mark.parametrize(
    ("value", "reason"), [("Host: canary-1", "the header host is set by IBEX"), ("canary-1", "header 1 is not")]
)
def test_an_invalid_header_is_an_error(value: str, reason: str) -> None:
    """The error at start gives the reason but not the value."""
    with pytest.raises(SettingsError, match=r"IBEX_OPENAI_HEADERS is \(a secret, not shown\); ") as raised:
        Settings.load({"IBEX_OPENAI_HEADERS": value})
    assert reason in str(raised.value)
    assert "canary" not in str(raised.value)


def test_an_unsupported_proxy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error at start does not contain the proxy's address."""
    monkeypatch.setenv("https_proxy", "gopher://user:canary@proxy.example")
    adapters = EmbeddedAdapters(settings=Settings.load({"IBEX_OPENAI_TRANSPORT": "httpx"}))
    with pytest.raises(SettingsError, match="IBEX_OPENAI_TRANSPORT is 'httpx', but ") as raised:
        adapters.transport()
    assert "canary" not in str(raised.value)
