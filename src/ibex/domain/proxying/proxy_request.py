"""USE CASE: proxy one request to a provider, whatever its operation.

Authenticate, verify the agent, count the request, read and parse the body, look up the directive and inject it, ask the
provider, and forward the response. Whatever the outcome, the exchange is recorded before the last byte is sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from ibex.domain.directives.quotes import quotes
from ibex.domain.errors import (
    ClientClosedRequestError,
    FieldCode,
    FieldError,
    IbexError,
    InternalError,
    OverloadedError,
    ResponseNotFoundError,
    ServiceDegradedError,
    ValidationError,
)
from ibex.domain.ids import session_id
from ibex.domain.provider_errors import ProviderError, ProviderUnavailableError
from ibex.domain.proxying.admission import MAX_EPOCH_AGE_NS, MAX_RECHECKS
from ibex.domain.proxying.operation import NO_TARGET, MalformedResponseError, Target
from ibex.domain.proxying.provider import ProviderBody, ProviderRequest, TraceContext
from ibex.domain.proxying.streaming import StreamedResponse, failed_in_response
from ibex.domain.record.exchange import SessionRef, Stage, provider_span_id
from ibex.domain.record.in_flight import InFlightExchange
from ibex.domain.record.sessions import is_valid_handle
from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from ibex.domain.clock import Clock
    from ibex.domain.directives.cache import CachedDirectives
    from ibex.domain.directives.model import Directive, DirectiveVersions
    from ibex.domain.ids import IdSource
    from ibex.domain.proxying.admission import Admission, Admitted, Credentials
    from ibex.domain.proxying.capacity import Reservation
    from ibex.domain.proxying.operation import Operation, OperationRequest, ResponseReader, ResponseReference
    from ibex.domain.proxying.provider import Provider, ProviderRegistry
    from ibex.domain.record.exchange import Caller
    from ibex.domain.record.received_responses import ReceivedResponse, ReceivedResponses
    from ibex.domain.record.recorder import Recorder

SESSION_FIELD = "session_id"
"""The field of ``FieldError`` for the session's handle. Adapters replace it with the name in their protocol."""
_MAX_INLINE_HASH_BYTES = 256 << 10
"""Larger bodies are hashed in a thread: inline, hashing would block the event loop for longer than the handover."""


@value_object
class IncomingRequest:
    """A request as the client sent it. ``read_body`` reads the body; it is only called once the request has a slot.

    ``reservation`` is the request's part of the worker's capacity. The adapter releases it after the response.
    ``has_gone`` returns, when the use case is cancelled, whether the client has left. ``wrong_fields`` are reported
    together with the wrong fields of the body. ``default_session_handle`` names the session of a turn
    that has no ``session_handle`` and continues no response; an invalid one is ignored. ``trace_flags`` are forwarded
    to the provider (``TraceContext``).
    """

    operation: Operation
    request_id: UUID
    trace_id: str
    credentials: Credentials
    read_body: Callable[[], Awaitable[bytes]]
    reservation: Reservation
    has_gone: Callable[[], bool] = lambda: True
    target: Target = NO_TARGET
    session_handle: str | None = None
    default_session_handle: str | None = None
    ends_session: bool = False
    wrong_fields: tuple[FieldError, ...] = ()
    trace_flags: int = 0


@value_object
class BufferedResponse:
    """A buffered response. The repr shows no content."""

    in_flight: InFlightExchange
    body: bytes

    def __repr__(self) -> str:
        return f"<BufferedResponse {len(self.body)} bytes>"


@value_object
class RefusedResponse:
    """A request that was refused or failed, with the error for the client."""

    in_flight: InFlightExchange
    error: IbexError


ProxyResponse: TypeAlias = BufferedResponse | StreamedResponse | RefusedResponse


class ProxyRequest:
    """Proxies requests. Every refusal happens before the first byte of a response is sent."""

    def __init__(  # noqa: PLR0913 - one argument a port
        self,
        admit: Admission,
        directives: CachedDirectives,
        directive_versions: DirectiveVersions,
        responses: ReceivedResponses,
        providers: ProviderRegistry,
        recorder: Recorder,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._admission = admit
        self._directives = directives
        self._directive_versions = directive_versions
        self._responses = responses
        self._providers = providers
        self._recorder = recorder
        self._clock = clock
        self._ids = ids

    async def __call__(self, call: IncomingRequest) -> ProxyResponse:
        """Return the response to a request. A cancellation stops the provider and records the exchange."""
        in_flight = InFlightExchange.begin(self._clock, call.request_id, call.trace_id, call.operation.name)
        try:
            return await self._proxy(call, in_flight)
        except IbexError as error:
            self._admission.note_refusal(in_flight, error)
            await self._recorder.record(in_flight, error=error)
            await self._admission.delay_refusal(in_flight, error)
            return RefusedResponse(in_flight, error)
        except asyncio.CancelledError:
            await self._recorder.record(
                in_flight, error=ClientClosedRequestError() if call.has_gone() else shutting_down()
            )
            raise
        except Exception:
            await self._recorder.record(in_flight, error=InternalError())
            raise
        finally:
            call.reservation.release_body()  # no retry follows, so nothing needs the body

    async def _proxy(self, call: IncomingRequest, in_flight: InFlightExchange) -> ProxyResponse:
        operation, reservation = call.operation, call.reservation
        reservation.capacity.begin_authentication()
        try:
            admitted = await self._admission(call.credentials, in_flight, operation.permission)
        finally:
            reservation.capacity.end_authentication()
        if in_flight.caller is None:
            raise InternalError
        # After the rate limit, so that the limit also bounds the traces of requests that get no slot.
        reservation.take_slot(in_flight.caller.org_id)
        wrong_fields = _wrong_fields(call)
        if operation.makes_turn and not wrong_fields:
            handle = call.session_handle or _default_handle(call) or str(self._ids.uuid7())
            in_flight.session = _session(handle, call, in_flight.caller)
        request = await self._read_request(call, in_flight, wrong_fields)
        reference = request.reference
        if reference is not None:
            request, provider = await self._resolve_reference(request, reference, call, in_flight)
        elif request.model is not None:
            provider = self._providers.route(request.model, operation.name)
        else:
            raise InternalError
        in_flight.model = request.model  # only now: a name that no provider serves is arbitrary text, not recorded
        in_flight.directive = await self._directive(admitted, in_flight, takes_directive=operation.takes_directive)
        in_flight.enter(Stage.INJECT)
        dialect = provider.dialect
        if in_flight.directive is not None:
            request = request.with_directive(in_flight.directive, dialect)
        in_flight.enter(None)
        if dialect.asks_for_usage:
            request = request.asking_for_usage()
        reader = request.response_reader(dialect)
        in_flight.provider_asked(provider.name)
        self._recorder.begin(in_flight)
        trace = None
        if in_flight.journal_id is not None:
            trace = TraceContext(in_flight.trace_id, provider_span_id(in_flight.journal_id), call.trace_flags)
        outgoing = ProviderRequest(
            operation.name, request.path, request.model, request.is_streaming, request.body, operation.method, trace
        )
        del request  # frees copies of the body before the provider is asked
        return await self._ask(provider, outgoing, reader, in_flight)

    async def _resolve_reference(
        self,
        request: OperationRequest,
        reference: ResponseReference,
        call: IncomingRequest,
        in_flight: InFlightExchange,
    ) -> tuple[OperationRequest, Provider]:
        """Return the request, and the provider of the earlier response that it names.

        Raises ``ResponseNotFoundError`` if the caller has not received that response, and ``ServiceDegradedError`` if
        the record cannot be read.
        """
        caller = in_flight.caller
        if caller is None:
            raise InternalError
        if request.model is not None:
            self._providers.route(request.model, call.operation.name)  # a model without a provider is refused first
        received = await self._responses.find(caller.org_id, reference.id)
        if received is None or (reference.continues and received.agent_id != caller.agent_id):
            raise ResponseNotFoundError(reference.id, continues=reference.continues)
        provider = self._providers.by_name(received.provider, call.operation.name)
        if not reference.continues:
            request = await self._hide_directive(request, received)
        elif in_flight.session is not None and call.session_handle is None:
            in_flight.session = _session(received.session_handle, call, caller)
        return request, provider

    async def _hide_directive(self, request: OperationRequest, received: ReceivedResponse) -> OperationRequest:
        if received.directive_version_id is None:
            return request
        directive = await self._directive_versions.version(received.org_id, received.directive_version_id)
        return request.with_directive_hidden(directive)

    async def _read_request(
        self, call: IncomingRequest, in_flight: InFlightExchange, wrong_fields: tuple[FieldError, ...]
    ) -> OperationRequest:
        body = await call.read_body()
        try:
            request = await call.operation.parse(body, call.target)
        except ValidationError as error:
            raise ValidationError((*wrong_fields, *error.field_errors)) from None
        if wrong_fields:
            raise ValidationError(wrong_fields)
        in_flight.is_streaming = request.is_streaming
        if len(body) <= _MAX_INLINE_HASH_BYTES:
            in_flight.messages_hash = request.content_hash()
        else:
            in_flight.messages_hash = await asyncio.to_thread(request.content_hash)
        return request

    async def _directive(
        self, admitted: Admitted, in_flight: InFlightExchange, *, takes_directive: bool
    ) -> Directive | None:
        """Return the directive in force, once token, agent and directive are all valid at the same time.

        Nothing is awaited between that check and the call of the provider, so no other task runs in between. Without
        ``takes_directive``, check the token and the agent only, and return None. Raises what admission and the lookup
        of a directive raise.
        """
        caller = in_flight.caller
        if caller is None or caller.agent_id is None:
            raise InternalError
        org_id, agent_id = caller.org_id, caller.agent_id
        if not takes_directive:
            await self._admission.recheck(admitted, in_flight)
            return None
        in_flight.enter(Stage.DIRECTIVE)
        epoch, now_ns = admitted.epoch, self._clock.monotonic_ns()
        if now_ns - epoch.asked_ns <= MAX_EPOCH_AGE_NS and self._admission.is_current(admitted, now_ns):
            cached = self._directives.valid(org_id, agent_id, epoch, now_ns)
            if cached is not None:  # the usual case: one check is enough
                return cached.entry.value
        in_flight.enter(None)
        return await self._looked_up_directive(admitted, in_flight, org_id, agent_id)

    async def _looked_up_directive(
        self, admitted: Admitted, in_flight: InFlightExchange, org_id: UUID, agent_id: UUID
    ) -> Directive | None:
        for _ in range(MAX_RECHECKS):
            epoch = await self._admission.recheck(admitted, in_flight)
            in_flight.enter(Stage.DIRECTIVE)
            found = await self._directives.look_up(org_id, agent_id, epoch)
            in_flight.enter(None)
            now_ns = self._clock.monotonic_ns()
            if self._admission.is_current(admitted, now_ns) and (
                found.is_stale or self._directives.is_valid(found, epoch, now_ns)
            ):
                return found.value
        raise ServiceDegradedError

    async def _ask(
        self, provider: Provider, request: ProviderRequest, reader: ResponseReader, in_flight: InFlightExchange
    ) -> BufferedResponse | StreamedResponse:
        try:
            answer = await provider.complete(request)
        except ProviderError as error:
            if in_flight.directive is not None and error.detail and quotes(error.detail, in_flight.directive.text):
                error.detail = None  # a refusal may repeat the request
            in_flight.connect_failure = error.connect_failure
            in_flight.provider_answered(
                error.attempts, error.provider_request_id, error.provider_status, error.processing_ms
            )
            raise
        except OverloadedError as error:
            in_flight.provider_not_reached(error.attempts)
            raise
        in_flight.provider_answered(answer.attempts, answer.provider_request_id, processing_ms=answer.processing_ms)
        if not isinstance(answer, ProviderBody):
            return StreamedResponse(answer, reader, in_flight, self._recorder)
        in_flight.provider_sent_bytes()
        in_flight.provider_ended()
        try:
            body = reader.read_body(answer.body)
        except MalformedResponseError:
            raise ProviderUnavailableError(
                "The provider returned a malformed response.",
                provider_request_id=answer.provider_request_id,
                attempts=answer.attempts,
            ) from None
        failure = failed_in_response() if reader.failed else None
        await self._recorder.record(in_flight, error=failure, summary=reader.summary())
        return BufferedResponse(in_flight, body)


def shutting_down() -> ServiceDegradedError:
    """Return the error, for the client and the record, of a request that a shutdown interrupts."""
    return ServiceDegradedError("The proxy is shutting down. Retry the request.")


def _session(handle: str, call: IncomingRequest, caller: Caller | None) -> SessionRef:
    if caller is None or caller.agent_id is None:
        raise InternalError
    return SessionRef(session_id(caller.org_id, caller.agent_id, handle), handle, call.ends_session)


def _default_handle(call: IncomingRequest) -> str | None:
    handle = call.default_session_handle
    return handle if handle is not None and is_valid_handle(handle) else None


def _wrong_fields(call: IncomingRequest) -> tuple[FieldError, ...]:
    """Return the errors outside of the body. They are reported together with the errors in the body."""
    if not call.operation.makes_turn or call.session_handle is None or is_valid_handle(call.session_handle):
        return call.wrong_fields
    allowed = "must be 1 to 128 characters of A-Z a-z 0-9 . _ : -"
    return (FieldError(SESSION_FIELD, FieldCode.INVALID_FORMAT, allowed), *call.wrong_fields)
