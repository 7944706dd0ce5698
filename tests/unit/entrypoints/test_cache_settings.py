"""The settings of caches."""

from __future__ import annotations

import pytest

from ibex.entrypoints.settings import Settings, SettingsError


def test_the_default_caches() -> None:
    """ADR 0045 explains them."""
    settings = Settings()
    assert (settings.auth_cache_size, settings.auth_stale_if_error_s) == (5_000, 300.0)
    assert (settings.directive_cache_ttl_s, settings.directive_stale_if_error_s) == (60.0, 300.0)
    assert settings.cache_key is None


def test_stale_if_error_can_be_disabled() -> None:
    """Installations with several regions disable it."""
    assert Settings.load({"IBEX_AUTH_STALE_IF_ERROR": "0"}).auth_stale_if_error_s == 0.0
    with pytest.raises(SettingsError, match="IBEX_AUTH_STALE_IF_ERROR is '-1'"):
        Settings.load({"IBEX_AUTH_STALE_IF_ERROR": "-1"})
