"""The server interceptor of every call: it sets the request id, the deadline and the status, and calls the observer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc

from ibex.adapters.grpc.call_limits import KIND_OF, CallKind
from ibex.adapters.grpc.metadata import REQUEST_ID_KEY, request_id_in
from ibex.adapters.grpc.statuses import REASON_KEY, Reason, UnknownMethodError, refusal_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from uuid import UUID

    from ibex.adapters.grpc.gate import Gate
    from ibex.adapters.grpc.statuses import CallRefusal
    from ibex.domain.clock import Clock
    from ibex.domain.ids import IdSource

    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = Any  # a grpc.RpcMethodHandler; its type stub has no asynchronous handlers

MAX_CALL_S: Final = 10.0
OK: Final = "OK"
CANCELLED: Final = "CANCELLED"


class CallObserver(Protocol):
    """Port: is called at the beginning and at the end of every call. Quick; never raises, never blocks.

    All methods run in the task of the call, so that the whole call sees a context variable that ``began`` sets.
    """

    def began(self, request_id: UUID) -> None:
        """Record that a call has begun."""

    def failed(self, error: BaseException) -> None:
        """Record an unexpected error. Do not log its message, which may contain a secret."""

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """Record the end of a call, before its response is sent.

        ``method`` is the method's name in the protocol. ``status`` is the name of gRPC's status: OK, UNAUTHENTICATED …;
        CANCELLED if the caller disconnected or its deadline passed.
        """


class NullCallObserver:
    """A ``CallObserver`` that does nothing."""

    def began(self, request_id: UUID) -> None:
        """Do nothing."""

    def failed(self, error: BaseException) -> None:
        """Do nothing."""

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """Do nothing."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """The interceptor of every call.

    It passes unary calls through the gate within a time limit, and the streams of the watch through the gate without
    one. It turns every error into a status.

    It registers each method as a request stream, so that it runs before the message has arrived. A caller without the
    service credential is therefore refused before its message is read, and does not count as a running call.
    """

    def __init__(
        self,
        gate: Gate,
        ids: IdSource,
        clock: Clock,
        observer: CallObserver,
        *,
        max_call_s: float = MAX_CALL_S,
    ) -> None:
        """Set the time limit of a unary call, in seconds. A shorter deadline of the caller still applies."""
        self._gate = gate
        self._ids = ids
        self._clock = clock
        self._observer = observer
        self._null_observer = NullCallObserver()
        self._max_call_s = max_call_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return a handler that wraps the handler of the called method, or refuses an unknown method."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        kind = KIND_OF.get(method)
        name = method.rpartition("/")[2]
        if handler is not None and handler.stream_stream is not None and kind is CallKind.WATCH:
            return self._watching(name, handler)
        if handler is None or handler.unary_unary is None or kind is None:
            return grpc.stream_unary_rpc_method_handler(self._refuse_unknown)
        observer = self._null_observer if kind is CallKind.HEALTH else self._observer

        async def call(requests: AsyncIterator[bytes], context: Context) -> bytes:
            return await self._call(name, kind, observer, handler, requests, context)

        return grpc.stream_unary_rpc_method_handler(call)

    def _watching(self, name: str, handler: Handler) -> Handler:
        async def watch(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            started_ns, status, refusal = self._clock.monotonic_ns(), CANCELLED, None
            self._observer.began(request_id_in(context.invocation_metadata() or ()) or self._ids.uuid7())
            try:
                async for response in self._gate.stream(handler, requests, context):
                    yield response
                status = OK
            except Exception as error:  # noqa: BLE001 - every error becomes a status
                refusal = refusal_of(error)
                if refusal.reason is Reason.INTERNAL:
                    self._observer.failed(error)
                status = refusal.status.name
            finally:
                self._observer.ended(name, status, self._clock.monotonic_ns() - started_ns)
            if refusal is not None:
                await _abort(context, refusal)

        return grpc.stream_stream_rpc_method_handler(watch)

    async def _refuse_unknown(self, _requests: AsyncIterator[bytes], context: Context) -> bytes:
        self._gate.count_unknown_method(context)
        return await _abort(context, refusal_of(UnknownMethodError()))

    async def _call(
        self,
        name: str,
        kind: CallKind,
        observer: CallObserver,
        handler: Handler,
        requests: AsyncIterator[bytes],
        context: Context,
    ) -> bytes:
        started_ns = self._clock.monotonic_ns()
        request_id = request_id_in(context.invocation_metadata() or ()) or self._ids.uuid7()
        observer.began(request_id)
        response, refusal, status = b"", None, CANCELLED
        try:
            async with asyncio.timeout(self._max_call_s):
                response = await self._gate.run(kind, handler, requests, context)
            status = OK
        except Exception as error:  # noqa: BLE001 - every error becomes a status
            refusal = refusal_of(error)
            if refusal.reason is Reason.INTERNAL:
                observer.failed(error)
            status = refusal.status.name
        finally:
            observer.ended(name, status, self._clock.monotonic_ns() - started_ns)
        trailing = (REQUEST_ID_KEY, str(request_id))
        if refusal is not None:
            return await _abort(context, refusal, trailing)
        context.set_trailing_metadata((trailing,))
        return response


async def _abort(context: Context, refusal: CallRefusal, *trailing: tuple[str, str]) -> bytes:
    await context.abort(refusal.status, refusal.message, ((REASON_KEY, refusal.reason.value), *trailing))
    return b""
