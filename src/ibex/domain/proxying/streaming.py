"""A streamed response on its way to the client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ibex.domain.deadline import Deadline
from ibex.domain.errors import ClientClosedRequestError, IbexError, InternalError
from ibex.domain.provider_errors import ProviderUnavailableError
from ibex.domain.record.recorder import report_bug

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ibex.domain.proxying.operation import ResponseReader
    from ibex.domain.proxying.provider import ProviderStream, StreamEvent
    from ibex.domain.record.in_flight import InFlightExchange
    from ibex.domain.record.recorder import Recorder


MAX_TRAILING_S: Final = 1.0
"""How long a stream stays open after the event that ends it, in seconds, for an operation that forwards the rest."""


class StreamedResponse:
    """An async iterator over the bytes to send. Records the exchange before it returns the event that ends the stream.

    The iteration ends normally if the provider completed the stream. Otherwise it yields everything that arrived,
    records the exchange, and then raises the error for the client. Always call ``aclose()`` at the end: a stream that
    is closed early counts as closed by its client.

    If the reader ``forwards_trailing_events``, the events that follow the one that ends the stream are forwarded until
    the provider ends the response, for at most ``MAX_TRAILING_S``.
    """

    def __init__(
        self, upstream: ProviderStream, reader: ResponseReader, in_flight: InFlightExchange, recorder: Recorder
    ) -> None:
        self.in_flight = in_flight
        self._upstream = upstream
        self._events = aiter(upstream)
        self._reader = reader
        self._recorder = recorder
        self._send: Callable[[bytes], bool] | None = None
        self._unsent: list[bytes] = []
        self._ended = False
        self._trailing_deadline: float | None = None
        self._failure: IbexError | None = None
        self._closing: asyncio.Task[None] | None = None

    def __aiter__(self) -> StreamedResponse:
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            try:
                events = await anext(self._events)
                self.in_flight.provider_sent_bytes()
                forwarded = await self._read(events)
            except StopAsyncIteration:
                await self._end(None if self._is_complete() else _cut_short())
                break
            except IbexError as error:
                await self._end(error)
                break
            except Exception:
                await self._end(InternalError())
                raise
            if forwarded:
                return forwarded
        if self._trailing_deadline is not None:
            rest = await self._read_trailing(self._trailing_deadline)
            if rest:
                return rest
        failure, self._failure = self._failure, None
        if failure is None:
            raise StopAsyncIteration
        try:
            raise failure
        finally:
            del failure  # its traceback has this frame

    def pass_to(self, send: Callable[[bytes], bool]) -> None:
        """Pass the bytes to send that arrive while the iteration waits to ``send``, at once, instead of returning them.

        ``send`` never blocks, and returns whether it sent the bytes; if not, the iteration returns them. The iteration
        always returns the event that ends the stream, because the exchange must be recorded first.
        """
        self._send = send
        self._upstream.pass_to(self._pass)

    def _pass(self, events: Sequence[StreamEvent]) -> bool:
        if self._ended or self._send is None:
            return False
        self.in_flight.provider_sent_bytes()
        forwarded = self._read_events(events)
        data = forwarded[0] if len(forwarded) == 1 else b"".join(forwarded)
        if not self._reader.has_ended and (not data or self._send(data)):
            return True
        self._unsent = forwarded
        return False

    def error_event(self, envelope: bytes) -> bytes:
        """Return the events that report an error to the client, given the error envelope as JSON on one line."""
        return self._reader.error_event(envelope)

    async def aclose(self, error: IbexError | None = None) -> None:
        """Stop the provider and record the exchange. Idempotent; a cancellation does not stop it.

        ``error`` is the error to record if the stream has not ended; by default, that the client closed the request.
        """
        if self._closing is None:
            self._closing = self._recorder.start(self._close(error or ClientClosedRequestError()))
        await asyncio.shield(self._closing)

    async def _read(self, events: Sequence[StreamEvent]) -> bytes:
        reader = self._reader
        forwarded = self._read_events(events)
        if reader.has_ended:
            if reader.forwards_trailing_events:
                self._trailing_deadline = asyncio.get_running_loop().time() + MAX_TRAILING_S
            await self._end(failed_in_response() if reader.failed else None, is_reported=True)
            if reader.forwards_trailing_events:
                forwarded += [reader.read_event(event) for event in events[len(forwarded) :]]
        return b"".join(forwarded)

    def _read_events(self, events: Sequence[StreamEvent]) -> list[bytes]:
        """Return the bytes for each event, up to the one that ends the stream.

        ``_unsent`` has those for the first events, if these were read already, and could not be passed on.
        """
        reader = self._reader
        forwarded, self._unsent = self._unsent, []
        for event in events[len(forwarded) :]:
            if reader.has_ended:
                break
            forwarded.append(reader.read_event(event))
        return forwarded

    async def _read_trailing(self, deadline: float) -> bytes:
        """Return the next events after the end of the stream; empty once the response has ended or time is up."""
        if asyncio.get_running_loop().time() >= deadline:  # data that is always there prevents the timer from firing
            self._trailing_deadline = None
            return b""
        try:
            async with Deadline(deadline):
                events = await anext(self._events)
        except (StopAsyncIteration, TimeoutError, IbexError):
            self._trailing_deadline = None
            return b""
        return b"".join([self._reader.read_event(event) for event in events])

    def _is_complete(self) -> bool:
        return self._reader.is_complete and not self._reader.failed

    async def _end(self, failure: IbexError | None, *, is_reported: bool = False) -> None:
        """Record the exchange. ``is_reported`` is whether the client has the failure as an event of the provider."""
        self._ended = True
        self._failure = None if is_reported or self._reader.failed else failure
        self.in_flight.provider_ended()
        await self._recorder.record(self.in_flight, error=failure, summary=self._reader.summary())

    async def _close(self, error: IbexError) -> None:
        self._ended = True
        self._send = None
        try:
            await self._upstream.aclose()
        except Exception as bug:  # noqa: BLE001 - its port declares none
            report_bug("the provider", bug)
        # Only the first recording counts: this one, if the stream had not ended.
        await self._recorder.record(self.in_flight, error=error, summary=self._reader.summary())


def _cut_short() -> ProviderUnavailableError:
    return ProviderUnavailableError("The provider ended the stream before it was complete.")


def failed_in_response() -> ProviderUnavailableError:
    """Return the error to record if the provider reports a failure in a response that reaches the client."""
    return ProviderUnavailableError("The provider reported an error in its response.")
