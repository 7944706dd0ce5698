"""The observer port for HTTP requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.errors import ErrorCode
    from ibex.domain.record.in_flight import InFlightExchange


class RequestObserver(Protocol):
    """Port: called at the beginning and the end of every HTTP request. Its methods are fast and never raise or block.

    ``refused`` is called in the same callback of the event loop as ``began``. The other methods are called in the task
    of the request. That task starts all other tasks of the request, so a context variable that ``began`` sets is
    visible in all of them.
    """

    def began(self, request_id: UUID, trace_id: str, parent: str | None = None) -> None:
        """A request has begun. ``parent`` is the client's span (W3C Trace Context), as ``<span id>-<flags>``."""

    def is_sampled(self, method: str, route: str) -> bool:
        """Return whether the spans of the current request are exported. ``route`` is the path template."""

    def failed(self, error: BaseException) -> None:
        """An unexpected exception was raised. Do not record its message, which may contain confidential data."""

    def ended(self, method: str, route: str, status: int, duration_ns: int, in_flight: InFlightExchange | None) -> None:
        """The request has ended.

        ``route`` is the path template, "" if no route matches. ``status`` is the status that was sent, 499 if none was.
        ``in_flight`` is None if admission did not begin. The exchange of a proxied request is already recorded.
        """

    def refused(self, method: str, route: str, status: int, code: ErrorCode, duration_ns: int) -> None:
        """The request was refused by its head alone and leaves no exchange. Called instead of ``ended``."""
