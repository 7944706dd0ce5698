"""The transport of requests to the provider, as the settings choose it."""

from __future__ import annotations

import pytest

from ibex.adapters.http_client.httpx_transport import CancelSafeTransport
from ibex.adapters.http_client.transport import Http1Transport
from ibex.entrypoints.openai_settings import Transport
from ibex.entrypoints.provider_registry import transport_of
from ibex.entrypoints.settings import Settings, SettingsError


@pytest.mark.parametrize(
    ("name", "kind"),
    [("direct", Http1Transport), ("httpx", CancelSafeTransport), ("http2", CancelSafeTransport)],
)
def test_each_transport_can_be_chosen(name: str, kind: type) -> None:
    """The name of the transport is enough."""
    settings = Settings.load({"IBEX_OPENAI_TRANSPORT": name})
    assert settings.openai_transport is Transport(name)
    assert isinstance(transport_of(settings), kind)


def test_an_unsupported_proxy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error at start does not contain the proxy's address."""
    monkeypatch.setenv("https_proxy", "gopher://user:canary@proxy.example")
    settings = Settings.load({"IBEX_OPENAI_TRANSPORT": "httpx"})
    with pytest.raises(SettingsError, match="IBEX_OPENAI_TRANSPORT is 'httpx', but ") as raised:
        transport_of(settings)
    assert "canary" not in str(raised.value)
