"""Telemetry of the lists of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from ibex.domain.provider_errors import ProviderError

if TYPE_CHECKING:
    from ibex.domain.errors import RetryableError

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.provider")


class ModelListTelemetry:
    """A ``ModelListObserver``. It logs the first failure of an outage, and its end."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def list_received(self, provider: str) -> None:
        """Log the end of an outage."""
        if provider in self._failing:
            self._failing.discard(provider)
            _LOG.info("the provider lists its models again", provider=provider)

    def list_failed(self, provider: str, error: RetryableError) -> None:
        """Log the first failure, without any text of the provider."""
        if provider not in self._failing:
            self._failing.add(provider)
            failed = error if isinstance(error, ProviderError) else None
            _LOG.warning(
                "the provider did not list its models; GET /v1/models shows the last list, or configured names",
                provider=provider,
                error_code=error.code,
                provider_status=None if failed is None else failed.provider_status,
                connect_failure=None if failed is None else failed.connect_failure,
            )
