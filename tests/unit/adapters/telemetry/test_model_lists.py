"""Tests that an outage of the provider's list of models is logged in one line, and its end in another."""

from __future__ import annotations

from structlog.testing import capture_logs

from ibex.adapters.telemetry.model_lists import ModelListTelemetry
from ibex.domain.errors import OverloadedError
from ibex.domain.provider_errors import ProviderRefusal, ProviderRefusedError, ProviderUnavailableError


def test_an_outage_is_logged_once() -> None:
    """The line has the error code and the provider's status, but no text of the provider. The recovery is logged."""
    telemetry = ModelListTelemetry()
    unreachable = ProviderUnavailableError()
    unreachable.connect_failure = "cannot connect to localhost: connection refused"

    with capture_logs() as logged:
        telemetry.list_received("openai")
        for _ in range(3):
            telemetry.list_failed("openai", ProviderUnavailableError(provider_status=401))
        telemetry.list_received("openai")
        telemetry.list_received("openai")
        telemetry.list_failed("openai", ProviderRefusedError(ProviderRefusal.NOT_FOUND, detail="canary"))
        telemetry.list_failed("other", OverloadedError())
        telemetry.list_failed("third", unreachable)

    found = [(line["log_level"], line.get("error_code"), line.get("provider_status")) for line in logged]
    assert found == [
        ("warning", "PROVIDER_UNAVAILABLE", 401),
        ("info", None, None),
        ("warning", "INVALID_REQUEST", None),
        ("warning", "OVERLOADED", None),
        ("warning", "PROVIDER_UNAVAILABLE", None),
    ]
    assert logged[-1]["connect_failure"] == unreachable.connect_failure
    assert "canary" not in repr(logged)
