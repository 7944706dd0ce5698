"""The responses that agents have received, for requests that name one (ADR 0050).

The provider stores responses under a key that organizations share, so only IBEX's record shows which agent received
a response. An exchange is on record some time after its client has the response. Until then, the response is in the
worker's memory and in a cache that all workers share.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.errors import ServiceDegradedError
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from uuid import UUID

    from ibex.domain.record.exchange import Exchange

MAX_REMEMBERED: Final = 10_000
"""The number of responses that one worker remembers. Older ones are on record or in the shared cache."""
RECORD_UNAVAILABLE: Final = "The record of responses is temporarily unavailable. Retry later."


@value_object
class ReceivedResponse:
    """A response that an agent received: its session, its provider, and the version of the directive, if there was one.

    ``id`` is the provider's.
    """

    id: str
    org_id: UUID
    agent_id: UUID
    session_handle: str
    provider: str
    directive_version_id: UUID | None


class ResponseRecord(Protocol):
    """Port: the responses on record."""

    async def received(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:
        """Return the response that an agent of the organization received; None if it is not on record.

        Raises ``ServiceDegradedError`` if the record cannot be read.
        """


class SharedResponses(Protocol):
    """Port: a cache of recent responses that all workers share. It may lose any entry at any time."""

    async def get(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:
        """Return the response, or None if it is missing. Raises ``SharedCacheError`` if the cache does not answer."""

    async def put(self, response: ReceivedResponse) -> None:
        """Store a response. Never raises."""


class SharedCacheError(Exception):
    """The shared cache did not answer in time."""


class ReceivedResponses:
    """Finds the responses that agents have received: in the worker's memory, the shared cache or the record."""

    def __init__(self, record: ResponseRecord, shared: SharedResponses) -> None:
        self._record = record
        self._shared = shared
        self._remembered: OrderedDict[tuple[int, str], ReceivedResponse] = OrderedDict()

    async def remember(self, exchange: Exchange) -> None:
        """Remember the response of an exchange, if later requests can name it. Never raises."""
        response = received_response_of(exchange)
        if response is None:
            return
        self._remembered[response.org_id.int, response.id] = response
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        await self._shared.put(response)

    async def find(self, org_id: UUID, response_id: str) -> ReceivedResponse | None:
        """Return the response, or None if no agent of the organization received it.

        Raises ``ServiceDegradedError`` if the response was not found and the record or the shared cache cannot be read.
        """
        remembered = self._remembered.get((org_id.int, response_id))
        if remembered is not None:
            return remembered
        is_certain = True
        try:
            found = await self._shared.get(org_id, response_id)
        except SharedCacheError:
            found, is_certain = None, False
        if found is None:
            try:
                found = await self._record.received(org_id, response_id)
            except ServiceDegradedError:
                raise ServiceDegradedError(RECORD_UNAVAILABLE) from None
        if found is None and not is_certain:
            raise ServiceDegradedError(RECORD_UNAVAILABLE)
        return found


def received_response_of(exchange: Exchange) -> ReceivedResponse | None:
    """Return the response that an exchange delivered, or None if later requests cannot name it."""
    caller, session, provider = exchange.caller, exchange.session, exchange.provider
    response_id = exchange.summary.response_id
    if response_id is None or caller is None or caller.agent_id is None or session is None or provider is None:
        return None
    return ReceivedResponse(
        id=response_id,
        org_id=caller.org_id,
        agent_id=caller.agent_id,
        session_handle=session.handle,
        provider=provider,
        directive_version_id=exchange.directive.version_id if exchange.directive else None,
    )
