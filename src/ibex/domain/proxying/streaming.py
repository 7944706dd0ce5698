"""A streamed answer on its way to the client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ibex.domain.errors import ClientClosedRequestError, IbexError, InternalError, ProviderUnavailableError
from ibex.domain.proxying.completion import CompletionFold, EventKind
from ibex.domain.record.recorder import report_bug

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ibex.domain.proxying.provider import ProviderStream, StreamEvent
    from ibex.domain.record.in_flight import InFlightExchange
    from ibex.domain.record.recorder import Recorder


class StreamedResponse:
    """Iterate it for the bytes to send; it folds what it forwards and puts the exchange on record before ``[DONE]``.

    Iteration ends where the provider's stream ended well. Where it did not, everything that came is given out and then
    the error that the client must hear of is raised, the exchange being on record by then. Whoever iterates must call
    ``aclose()`` at the end, whatever happened; a stream that is closed early was left by its client.
    """

    def __init__(
        self, upstream: ProviderStream, in_flight: InFlightExchange, recorder: Recorder, *, hide_usage: bool
    ) -> None:
        self.in_flight = in_flight
        self._upstream = upstream
        self._events = aiter(upstream)
        self._recorder = recorder
        self._hide_usage = hide_usage
        self._fold = CompletionFold()
        self._ended = False
        self._failure: IbexError | None = None
        self._closing: asyncio.Task[None] | None = None

    def __aiter__(self) -> StreamedResponse:
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            try:
                events = await anext(self._events)
            except StopAsyncIteration:
                await self._end(None if self._well_ended() else _cut_short())
                break
            except IbexError as error:
                await self._end(error)
                break
            except Exception:
                await self._end(InternalError())
                raise
            self.in_flight.provider_spoke()
            forwarded = await self._take(events)
            if forwarded:
                return forwarded
        failure, self._failure = self._failure, None
        if failure is None:
            raise StopAsyncIteration
        try:
            raise failure
        finally:
            del failure  # its traceback has this frame

    async def aclose(self, why: IbexError | None = None) -> None:
        """Stop the provider and put the exchange on record. Idempotent; being cancelled does not stop it.

        ``why`` says why a stream is closed before its end, if its client has not left.
        """
        if self._closing is None:
            self._closing = self._recorder.start(self._close(why or ClientClosedRequestError()))
        await asyncio.shield(self._closing)

    async def _take(self, events: Sequence[StreamEvent]) -> bytes:
        forwarded = []
        for event in events:
            kind = EventKind.DATA if event.data is None else self._fold.add(event.data)
            if kind is EventKind.DONE:
                await self._end(None if not self._fold.failed else _failed_in_band(), heard=True)
            if kind is EventKind.USAGE_ONLY and self._hide_usage:
                continue
            forwarded.append(event.raw)
            if self._ended:
                break
        return b"".join(forwarded)

    def _well_ended(self) -> bool:
        return self._fold.finished and not self._fold.failed

    async def _end(self, failure: IbexError | None, *, heard: bool = False) -> None:
        """Settle. ``heard``: the client has been told of the failure by the provider's own event."""
        self._ended = True
        self._failure = None if heard or self._fold.failed else failure
        self.in_flight.provider_ended()
        await self._recorder.record(self.in_flight, error=failure, summary=self._fold.summary())

    async def _close(self, why: IbexError) -> None:
        self._ended = True
        try:
            await self._upstream.aclose()
        except Exception as error:  # noqa: BLE001 - its port announces none
            report_bug("the provider", error)
        # the first recording decides: this one, if the end had not come
        await self._recorder.record(self.in_flight, error=why, summary=self._fold.summary())


def _cut_short() -> ProviderUnavailableError:
    return ProviderUnavailableError("The provider ended the stream before it was complete.")


def _failed_in_band() -> ProviderUnavailableError:
    return ProviderUnavailableError("The provider reported an error in its stream.")
