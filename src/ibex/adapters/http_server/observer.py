"""Who hears of HTTP requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.errors import ErrorCode
    from ibex.domain.record.in_flight import InFlightExchange


class RequestObserver(Protocol):
    """Port: hears of every HTTP request once it begins and once it ends. Quick; never raises, never blocks.

    ``refused`` follows ``began`` in the same callback of the event loop. The others are called in the request's own
    task, and what happens for the request in other tasks is started by it, so that a context variable set by ``began``
    is seen wherever the request goes.
    """

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """A request has come in, for this span of its client's: ``<span id>-<flags>`` as in W3C's trace context."""

    def failed(self, error: BaseException) -> None:
        """Something unforeseen was raised. Its message may hold anything: it must not be written down."""

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:
        """The request is over.

        ``route`` is a template, "" if none matches. ``status`` is what was sent, 499 if nothing was. ``in_flight``
        is None if no admission was tried. The exchange of a proxied request has been recorded before.
        """

    def refused(self, method: str, route: str, status: int, code: ErrorCode, duration_ns: int) -> None:
        """The request is over, in place of ``ended``: it was refused by its head alone, and leaves no exchange."""
