"""The settings that limit what clients can use."""

from __future__ import annotations

import pytest

from ibex.entrypoints.settings import Settings, SettingsError


def test_a_quarter_of_the_body_budget_fits_the_largest_body() -> None:
    """Otherwise an idle organization could not send such a body while others use their share."""
    assert Settings().body_budget_bytes == 256 << 20
    sizes = {"IBEX_MAX_REQUEST_BODY_BYTES": "4096", "IBEX_BODY_BUDGET_BYTES": "16384"}
    assert Settings.load(sizes).body_budget_bytes == 16_384
    with pytest.raises(SettingsError, match="IBEX_BODY_BUDGET_BYTES is 16383; it must be at least 16384"):
        Settings.load({**sizes, "IBEX_BODY_BUDGET_BYTES": "16383"})


def test_the_default_limits() -> None:
    """They equal those in docs/limits.md."""
    settings = Settings()
    assert (settings.max_concurrency, settings.max_connections) == (2_000, 10_000)
    assert (settings.header_timeout_s, settings.keep_alive_s, settings.client_stall_timeout_s) == (10.0, 75.0, 60.0)


@pytest.mark.parametrize("name", ["IBEX_MAX_CONNECTIONS", "IBEX_MAX_CONCURRENCY", "IBEX_KEEP_ALIVE"])
def test_a_limit_is_positive(name: str) -> None:
    """Zero would refuse everything."""
    with pytest.raises(SettingsError, match=f"{name} is '0'"):
        Settings.load({name: "0"})
