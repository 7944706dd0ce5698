"""USE CASE: one chat completion, from a claim to an answer.

authenticate → verify the agent → count → read the body → look up the directive → inject it → ask the provider; and,
whatever came of it, one exchange on record before the client has the last byte.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from ibex.domain.admit_caller import MAX_RECHECKS, RECENT_NS
from ibex.domain.chat_stream import ChatStream
from ibex.domain.completion import MalformedCompletionError, summarize_body
from ibex.domain.directives import inject
from ibex.domain.errors import (
    ClientClosedRequestError,
    FieldCode,
    FieldError,
    IbexError,
    InternalError,
    OverloadedError,
    ProviderError,
    ProviderUnavailableError,
    ServiceDegradedError,
    ValidationError,
)
from ibex.domain.exchange import SessionRef, Stage
from ibex.domain.ids import session_id
from ibex.domain.open_exchange import OpenExchange
from ibex.domain.providers import CompletionBody, OutgoingRequest
from ibex.domain.sessions import is_handle
from ibex.domain.values import value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from ibex.domain.admit_caller import AdmitCaller, Admitted, Credentials
    from ibex.domain.cached_identity import CachedDirectives
    from ibex.domain.chat import ChatRequest
    from ibex.domain.clock import Clock
    from ibex.domain.directives import Directive
    from ibex.domain.exchange import Caller
    from ibex.domain.fair_share import Reservation
    from ibex.domain.ids import IdSource
    from ibex.domain.providers import CompletionProvider, ProviderRegistry
    from ibex.domain.settle_exchange import SettleExchange

SESSION_HEADER = "X-IBEX-Session-ID"
_HASHED_AT_ONCE_BYTES = 256 << 10
"""Larger bodies are hashed in a thread: hashing them would block the event loop for longer than the handover."""


@value
class ChatCall:
    """A chat request as the client sent it. ``read_request`` reads and parses the body, once the request has a slot.

    ``reservation`` is the request's part of the worker's capacity. The adapter releases it after the response.
    ``has_gone`` tells, when the call is cancelled, whether that is because the client has left.
    """

    request_id: UUID
    trace_id: str
    credentials: Credentials
    read_request: Callable[[], Awaitable[ChatRequest]]
    reservation: Reservation
    has_gone: Callable[[], bool] = lambda: True
    session_handle: str | None = None
    ends_session: bool = False


@value
class ChatAnswer:
    """A whole answer: the provider's bytes."""

    notes: OpenExchange
    body: bytes

    def __repr__(self) -> str:
        return f"<ChatAnswer {len(self.body)} bytes>"


@value
class ChatRefusal:
    """No answer, and why."""

    notes: OpenExchange
    error: IbexError


ChatReply: TypeAlias = ChatAnswer | ChatStream | ChatRefusal


class CompleteChat:
    """Answers chat calls. All refusals happen before anything of an answer is sent."""

    def __init__(
        self,
        admit: AdmitCaller,
        directives: CachedDirectives,
        providers: ProviderRegistry,
        settle: SettleExchange,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._admit = admit
        self._directives = directives
        self._providers = providers
        self._settle = settle
        self._clock = clock
        self._ids = ids

    async def __call__(self, call: ChatCall) -> ChatReply:
        """Answer one call. When it is cancelled the provider is stopped and the turn recorded."""
        notes = OpenExchange.begin(self._clock, call.request_id, call.trace_id)
        try:
            return await self._complete(call, notes)
        except IbexError as error:
            self._admit.note_refusal(notes, error)
            await self._settle.settle(notes, error=error)
            await self._admit.delay_refusal(notes, error)
            return ChatRefusal(notes, error)
        except asyncio.CancelledError:
            await self._settle.settle(notes, error=ClientClosedRequestError() if call.has_gone() else shutting_down())
            raise
        except Exception:
            await self._settle.settle(notes, error=InternalError())
            raise
        finally:
            call.reservation.release_body()  # no retry follows, so nothing needs the body

    async def _complete(self, call: ChatCall, notes: OpenExchange) -> ChatReply:
        reservation = call.reservation
        reservation.capacity.begin_authentication()
        try:
            admitted = await self._admit(call.credentials, notes)
        finally:
            reservation.capacity.end_authentication()
        if notes.caller is None:
            raise InternalError
        # After the rate limit, so that the limit also bounds the traces of requests that get no slot.
        reservation.take_slot(notes.caller.org_id)
        wrong_headers = _wrong_headers(call)
        if not wrong_headers:
            notes.session = self._session(call, notes.caller)
        request = await self._read(call, notes, wrong_headers)
        provider = self._providers.route(request.model)
        notes.model = request.model  # only once it is routed: any other name is arbitrary text, which is not recorded
        notes.directive = await self._directive(admitted, notes)
        notes.enter(Stage.INJECT)
        request = inject(request, notes.directive)
        notes.enter(None)
        asked = request.asking_for_usage() if provider.reports_stream_usage else request
        hide_usage = asked is not request
        outgoing = OutgoingRequest(asked.model, asked.stream, asked.body)
        del request, asked  # frees five copies of the body before the provider is asked
        return await self._ask(provider, outgoing, notes, hide_usage=hide_usage)

    def _session(self, call: ChatCall, caller: Caller | None) -> SessionRef:
        if caller is None or caller.agent_id is None:
            raise InternalError
        handle = str(self._ids.uuid7()) if call.session_handle is None else call.session_handle
        return SessionRef(session_id(caller.org_id, caller.agent_id, handle), handle, call.ends_session)

    async def _read(self, call: ChatCall, notes: OpenExchange, wrong_headers: tuple[FieldError, ...]) -> ChatRequest:
        try:
            request = await call.read_request()
        except ValidationError as error:
            raise ValidationError((*wrong_headers, *error.field_errors)) from None
        if wrong_headers:
            raise ValidationError(wrong_headers)
        notes.is_streaming = request.stream
        if len(request.body) <= _HASHED_AT_ONCE_BYTES:
            notes.messages_hash = request.messages_hash()
        else:
            notes.messages_hash = await asyncio.to_thread(request.messages_hash)
        return request

    async def _directive(self, admitted: Admitted, notes: OpenExchange) -> Directive | None:
        """Return the directive in force, at a moment at which token, agent and directive are all valid.

        Nothing is awaited between that moment and asking the provider, so a pause of the process cannot come between.
        Raises what admitting and looking up a directive raise.
        """
        caller = notes.caller
        if caller is None or caller.agent_id is None:
            raise InternalError
        notes.enter(Stage.DIRECTIVE)
        epoch, now_ns = admitted.epoch, self._clock.monotonic_ns()
        if now_ns - epoch.asked_ns <= RECENT_NS and self._admit.is_current(admitted, now_ns):
            cached = self._directives.valid(caller.org_id, caller.agent_id, epoch, now_ns)
            if cached is not None:  # as for most requests: one check is enough
                return cached.entry.value
        notes.enter(None)
        return await self._looked_up_directive(admitted, notes, caller.org_id, caller.agent_id)

    async def _looked_up_directive(
        self, admitted: Admitted, notes: OpenExchange, org_id: UUID, agent_id: UUID
    ) -> Directive | None:
        for _ in range(MAX_RECHECKS):
            epoch = await self._admit.recheck(admitted, notes)
            notes.enter(Stage.DIRECTIVE)
            found = await self._directives.look_up(org_id, agent_id, epoch)
            notes.enter(None)
            now_ns = self._clock.monotonic_ns()
            if self._admit.is_current(admitted, now_ns) and (
                found.is_stale or self._directives.is_valid(found, epoch, now_ns)
            ):
                return found.value
        raise ServiceDegradedError

    async def _ask(
        self, provider: CompletionProvider, request: OutgoingRequest, notes: OpenExchange, *, hide_usage: bool
    ) -> ChatAnswer | ChatStream:
        notes.provider_asked(provider.name)
        self._settle.begin(notes)
        try:
            answer = await provider.complete(request)
        except ProviderError as error:
            notes.provider_answered(error.attempts, error.provider_request_id, error.provider_status)
            raise
        except OverloadedError as error:
            notes.provider_not_reached(error.attempts)
            raise
        notes.provider_answered(answer.attempts, answer.provider_request_id)
        if not isinstance(answer, CompletionBody):
            return ChatStream(answer, notes, self._settle, hide_usage=hide_usage)
        notes.provider_spoke()
        notes.provider_ended()
        try:
            summary = summarize_body(answer.body)
        except MalformedCompletionError:
            raise ProviderUnavailableError(
                "The provider's answer is not a completion.",
                provider_request_id=answer.provider_request_id,
                attempts=answer.attempts,
            ) from None
        await self._settle.settle(notes, summary=summary)
        return ChatAnswer(notes, answer.body)


def shutting_down() -> ServiceDegradedError:
    """Return what a client is told, and the record says, of a request that the end of the process cut off."""
    return ServiceDegradedError("The proxy is shutting down.")


def _wrong_headers(call: ChatCall) -> tuple[FieldError, ...]:
    """What is wrong with the call's own headers: told together with what is wrong with the body."""
    if call.session_handle is None or is_handle(call.session_handle):
        return ()
    allowed = "must be 1 to 128 characters of A-Z a-z 0-9 . _ : -"
    return (FieldError(SESSION_HEADER, FieldCode.INVALID_FORMAT, allowed),)
