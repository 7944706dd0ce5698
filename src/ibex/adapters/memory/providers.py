"""A provider that says what it was told to say."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from ibex.domain.errors import IbexError, ProviderUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ibex.domain.proxying.provider import ProviderBody, ProviderRequest, StreamEvent


class Silence(Enum):
    """In the place of an answer, or of a read of a stream: nothing, until someone stops waiting for it."""

    FOR_EVER = "for ever"


Read: TypeAlias = "Sequence[StreamEvent] | IbexError | Silence"


class InMemoryStream:
    """A ``ProviderStream`` that gives out the reads it was made of, raising the errors among them.

    ``given`` counts the reads given out, ``closed`` says whether it was closed, ``cancelled`` how often the wait for a
    read was given up.
    """

    def __init__(self, *reads: Read, attempts: int = 1, provider_request_id: str | None = None) -> None:
        self.attempts = attempts
        self.provider_request_id = provider_request_id
        self.given = 0
        self.closed = False
        self.cancelled = 0
        self._reads = reads
        self._stopped = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Sequence[StreamEvent]]:
        for read in self._reads:
            if self.closed:
                return
            if isinstance(read, IbexError):
                raise read
            if isinstance(read, Silence):
                await self._wait()
                return
            self.given += 1
            yield read

    async def aclose(self) -> None:
        """End the stream, also for whoever waits for a read of it."""
        self.closed = True
        self._stopped.set()

    async def _wait(self) -> None:
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class InMemoryProvider:
    """A ``Provider`` that gives its answers in the order they were put in, each once.

    It raises the errors among them, and ``ProviderUnavailableError`` when none is left. ``requests`` are those that it
    was asked; ``cancelled`` counts those of them that were given up while it was silent.
    """

    def __init__(
        self,
        *answers: ProviderBody | InMemoryStream | IbexError | Silence,
        name: str = "memory",
        models: tuple[str, ...] = ("*",),
        reports_stream_usage: bool = True,
    ) -> None:
        self.name = name
        self.models = models
        self.reports_stream_usage = reports_stream_usage
        self.answers = deque(answers)
        self.requests: list[ProviderRequest] = []
        self.cancelled = 0

    async def complete(self, request: ProviderRequest) -> ProviderBody | InMemoryStream:
        """Give the next answer; see ``Provider``."""
        self.requests.append(request)
        answer = self.answers.popleft() if self.answers else ProviderUnavailableError()
        if isinstance(answer, Silence):
            answer = await self._wait()
        if isinstance(answer, IbexError):
            raise answer
        return answer

    async def _wait(self) -> IbexError:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return ProviderUnavailableError()
