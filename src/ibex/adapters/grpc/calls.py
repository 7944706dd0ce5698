"""The interceptor of every call: request id, deadline, status, observer."""

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
    Handler = Any  # a grpc.RpcMethodHandler, whose stub knows no asynchronous ones

MAX_CALL_S: Final = 10.0
OK: Final = "OK"
CANCELLED: Final = "CANCELLED"


class CallObserver(Protocol):
    """Port: hears of every call once it begins and once it ends. Quick; never raises, never blocks.

    All three are called in the call's own task, so that a context variable set by ``began`` is seen wherever it goes.
    """

    def began(self, request_id: UUID) -> None:
        """A call has come in."""

    def failed(self, error: BaseException) -> None:
        """Something unforeseen was raised. Its message may hold anything: it must not be written down."""

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """The call is over, and is about to be answered.

        ``method`` is the name in the protocol, ``status`` gRPC's: OK, UNAUTHENTICATED …; CANCELLED if the caller has
        gone or its own deadline has passed.
        """


class Unobserved:
    """A ``CallObserver`` that keeps it to itself."""

    def began(self, request_id: UUID) -> None:
        """A call has come in."""

    def failed(self, error: BaseException) -> None:
        """Something unforeseen was raised."""

    def ended(self, method: str, status: str, duration_ns: int) -> None:
        """The call is over."""


class AroundCalls(grpc.aio.ServerInterceptor):
    """Interceptor of every call.

    It admits, limits, times and answers unary calls, and admits and limits the streams of the watch.

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
        """Take the longest that a call may run, in seconds; a caller's own deadline ends it earlier."""
        self._gate = gate
        self._ids = ids
        self._clock = clock
        self._observer = observer
        self._unobserved = Unobserved()
        self._max_call_s = max_call_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return a handler that wraps the call's own."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        kind = KIND_OF.get(method)
        name = method.rpartition("/")[2]
        if handler is not None and handler.stream_stream is not None and kind is CallKind.WATCH:
            return self._watching(name, handler)
        if handler is None or handler.unary_unary is None or kind is None:
            return grpc.stream_unary_rpc_method_handler(self._refuse_unknown)
        observer = self._unobserved if kind is CallKind.HEALTH else self._observer

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
            except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a status
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
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a status
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
