"""Calls to auth: bounded in time and number, on whichever replica answers (ADR 0046)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
from grpc_health.v1 import health_pb2

from ibex.adapters.grpc.metadata import AUTHORIZATION_KEY, REQUEST_ID_KEY
from ibex.adapters.grpc.replicas import Replicas, endpoints_in
from ibex.adapters.grpc.service import SERVICE
from ibex.adapters.grpc.statuses import REASON_KEY, CallFailedError, Reason
from ibex.domain.errors import ServiceDegradedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from uuid import UUID

    from ibex.adapters.grpc.generated import auth_pb2
    from ibex.adapters.grpc.metadata import Metadata
    from ibex.adapters.grpc.replicas import Replica
    from ibex.adapters.grpc.tls import ClientTls

TIMEOUT_S: Final = 0.050
PING_TIMEOUT_S: Final = 0.5
# One event loop makes some 5,000 calls a second: so many take 25 ms, and more would all miss the deadline.
MAX_IN_FLIGHT: Final = 128
_LOG: Final = logging.getLogger(__name__)
_OPTIONS: Final = (
    # Whoever shares a process must not share a connection: closing one would leave the other's backoff behind.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy that the environment names is for the provider.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # This is also how long one attempt to connect may take; by default 20 s, all lost if the server hangs meanwhile.
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection that hangs is closed after 2 s, with or without calls on it. The ping's own timeout, 60 s by default,
    # is what counts while the other end says nothing at all.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 256 << 10),
    # Each channel has one address. By this policy, unlike by pick_first, its state stays TRANSIENT_FAILURE until it is
    # connected, so that an outage is logged once.
    ("grpc.lb_policy_name", "round_robin"),
)


@dataclass(frozen=True, slots=True)
class ChannelSecurity:
    """What is presented to auth, None for nothing, and TLS, None for plaintext."""

    service_credential: str | None = field(default=None, repr=False)
    tls: ClientTls | None = None


class CredentialRefusedError(ServiceDegradedError):
    """Auth answers, but not to who presents this service credential, or none."""


class GrpcAuthChannel:
    """Calls the replicas of auth in turn. A call that fails on one is tried once on another, within its deadline."""

    def __init__(
        self,
        address: str,
        request_id: Callable[[], UUID],
        *,
        security: ChannelSecurity = ChannelSecurity(),
        timeout_s: float = TIMEOUT_S,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        """Take the address, where the current request's id comes from, and seconds and calls at once at most.

        The address is ``host:port``, ``dns:///name:port``, or several of them separated by commas. Constructing it
        connects to nothing. Raises ``ValueError`` for a bound that is not positive and for an address that is wrong.
        """
        if timeout_s <= 0 or max_in_flight <= 0:
            raise ValueError("a channel's timeout and number of calls are positive")
        self.replicas = Replicas(endpoints_in(address), self._connect, self._check)
        self._request_id = request_id
        self._tls = security.tls
        credential = security.service_credential
        self._authorization = () if credential is None else ((AUTHORIZATION_KEY, f"Bearer {credential.strip()}"),)
        self._timeout_s = timeout_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._credential_refused = False
        self._is_open = False
        self._watched: Replica | None = None

    async def open(self) -> None:
        """Begin to connect, in this event loop, and stay connected. Does not wait for auth, which may come later."""
        if not self._is_open:
            self._is_open = True
            await self.replicas.open()

    async def close(self) -> None:
        """Disconnect; calls under way fail. Doing it again does nothing."""
        self._is_open, self._watched = False, None
        await self.replicas.close()

    async def ping(self) -> None:
        """Ask every replica for its health. Raises ``ServiceDegradedError`` if none says within 0.5 s that it serves.

        A replica serves while it can answer, even if its own store is lost. Raises ``CredentialRefusedError`` if they
        refuse the service credential.
        """
        answers = await asyncio.gather(*(self._check(replica) for replica in self.replicas))
        if any(answer is None for answer in answers):
            return
        if _Health.REFUSES_CREDENTIAL in answers:
            raise CredentialRefusedError("Auth refuses the service credential.")
        if _Health.NOT_SERVING in answers:
            raise ServiceDegradedError("Auth is not serving.")
        raise ServiceDegradedError("Auth cannot be reached.")

    async def connected(self) -> None:
        """Return once a replica is connected, which may be never."""
        await self.replicas.connected.wait()

    async def validate_token(self, request: auth_pb2.ValidateTokenRequest) -> auth_pb2.ValidateTokenResponse:
        """Call ValidateToken. Raises ``CallFailedError``, at once if there are too many calls under way."""
        response: auth_pb2.ValidateTokenResponse = await self._bounded("ValidateToken", request)
        return response

    async def validate_agent(self, request: auth_pb2.ValidateAgentRequest) -> auth_pb2.ValidateAgentResponse:
        """Call ValidateAgent. Raises ``CallFailedError``, at once if there are too many calls under way."""
        response: auth_pb2.ValidateAgentResponse = await self._bounded("ValidateAgent", request)
        return response

    def watch(self, requests: AsyncIterator[auth_pb2.WatchRequest]) -> Any:
        """Begin a stream to another replica than the last one, if there is one; return gRPC's call.

        Raises ``CallFailedError`` if there is no replica.
        """
        replica = self._watched = self.replicas.next(self._watched) or self.replicas.next()
        if replica is None:
            raise CallFailedError(grpc.StatusCode.UNAVAILABLE)
        return replica.service.Watch(requests, metadata=self._metadata())

    async def token_filter(
        self, request: auth_pb2.TokenFilterRequest, timeout_s: float
    ) -> auth_pb2.TokenFilterResponse:
        """Call TokenFilter, on another replica if the first one fails. Raises ``CallFailedError``."""
        replica = self.replicas.next()
        answer = await self._ask(replica, "TokenFilter", request, timeout_s)
        if _may_try_again(answer):
            other = self.replicas.next(replica)
            if other is not None:
                answer = await self._ask(other, "TokenFilter", request, timeout_s)
        if isinstance(answer, _Failure):
            raise CallFailedError(answer.status, answer.reason)
        response: auth_pb2.TokenFilterResponse = answer
        return response

    async def _bounded(self, method: str, request: Any) -> Any:
        """Return the response. Raises ``CallFailedError``.

        Nothing refers to an error that was raised: its traceback would hold this frame, and so itself (ADR 0033).
        """
        if self._in_flight >= self._max_in_flight:
            raise CallFailedError(grpc.StatusCode.RESOURCE_EXHAUSTED)
        replica = self.replicas.next()
        if len(self.replicas) > 1:
            answer = await self._hedged(replica, method, request)
        else:
            self._in_flight += 1
            try:
                answer = await self._ask(replica, method, request, self._timeout_s)
            finally:
                self._in_flight -= 1
        if isinstance(answer, _Failure):
            self._note(answer.reason)
            raise CallFailedError(answer.status, answer.reason)
        self._note(None)
        return answer

    async def _hedged(self, first: Replica | None, method: str, request: Any) -> Any:
        """Return the response of the first replica, or of another if the first fails or is silent; or a failure."""
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        attempts = [self._begin(first, method, request, deadline_s)]
        try:
            await asyncio.wait(attempts, timeout=self._timeout_s / 2)
            other = self._other(first, attempts[0])
            if other is not None:
                attempts.append(self._begin(other, method, request, deadline_s))
            pending = [attempt for attempt in attempts if not attempt.done()]
            while pending and all(_may_try_again(attempt.result()) for attempt in attempts if attempt.done()):
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                pending = [attempt for attempt in pending if not attempt.done()]
            return _best([attempt.result() for attempt in attempts if attempt.done()])
        finally:
            for attempt in attempts:
                attempt.cancel()

    def _begin(self, replica: Replica | None, method: str, request: Any, deadline_s: float) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        self._in_flight += 1
        attempt = loop.create_task(self._ask(replica, method, request, max(deadline_s - loop.time(), 0.0)))
        attempt.add_done_callback(self._ended)
        return attempt

    def _ended(self, _attempt: asyncio.Task[Any]) -> None:
        self._in_flight -= 1

    def _other(self, first: Replica | None, attempt: asyncio.Task[Any]) -> Replica | None:
        """Return the replica for a second attempt; None where the first one is good, or where there is no room."""
        if attempt.done() and not _may_try_again(attempt.result()):
            return None
        if first is not None:
            first.avoid()
        if 2 * self._in_flight > self._max_in_flight:
            return None
        return self.replicas.next(first)

    async def _check(self, replica: Replica) -> _Health | None:
        """Return what is wrong with a replica; None if it serves."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        answer = await self._run(replica.health.Check, request, PING_TIMEOUT_S)
        if isinstance(answer, _Failure):
            is_refusal = answer.reason == Reason.SERVICE_CREDENTIAL
            return _Health.REFUSES_CREDENTIAL if is_refusal else _Health.UNREACHABLE
        return None if answer.status == health_pb2.HealthCheckResponse.SERVING else _Health.NOT_SERVING

    def _connect(self, target: str, name: str) -> grpc.aio.Channel:
        options = (*_OPTIONS, ("grpc.default_authority", name))
        if self._tls is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, self._tls.credentials(), options=options)

    def _note(self, reason: str | None) -> None:
        """Say it once when auth begins to refuse the credential: every request fails, and no client can tell why."""
        refused = reason == Reason.SERVICE_CREDENTIAL
        if refused and not self._credential_refused:
            _LOG.error("auth refuses the service credential")
        self._credential_refused = refused

    def _metadata(self) -> Metadata:
        return (*self._authorization, (REQUEST_ID_KEY, str(self._request_id())))

    async def _ask(self, replica: Replica | None, method: str, request: Any, timeout_s: float) -> Any:
        """Return the response of a replica, or a ``_Failure``."""
        if replica is None:
            return _Failure(grpc.StatusCode.UNAVAILABLE, None)
        return await self._run(getattr(replica.service, method), request, timeout_s)

    async def _run(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            response = await method(request, timeout=timeout_s, metadata=self._metadata(), wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            return _Failure(error.code(), _reason(error))
        except grpc.aio.UsageError:  # closed meanwhile
            return _Failure(grpc.StatusCode.UNAVAILABLE, None)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            return _Failure(grpc.StatusCode.CANCELLED, None)  # the channel was closed under the call
        if response is None:  # so the library says that it could not be read
            return _Failure(grpc.StatusCode.INTERNAL, None)
        return response


class _Failure(NamedTuple):
    """How a call failed. It is returned, not raised, so that a task can hold it without holding a traceback."""

    status: grpc.StatusCode
    reason: str | None


class _Health(Enum):
    UNREACHABLE = auto()
    NOT_SERVING = auto()
    REFUSES_CREDENTIAL = auto()


def _is_being_cancelled() -> bool:
    """Return whether the current task is being cancelled.

    A frame that the cancellation goes through must not hold the task, which then holds the traceback (ADR 0033).
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _may_try_again(answer: Any) -> bool:
    """Return whether another replica may have a better answer: this one could not look, or did not decide at all."""
    return isinstance(answer, _Failure) and answer.reason in (None, Reason.SOURCE_UNAVAILABLE)


def _best(answers: list[Any]) -> Any:
    """Return the answer that counts: a decision, else that the source is unavailable, else any failure."""
    for answer in answers:
        if not _may_try_again(answer):
            return answer
    return next((answer for answer in answers if answer.reason is not None), answers[0])


def _reason(error: grpc.aio.AioRpcError) -> str | None:
    reason = (error.trailing_metadata() or {}).get(REASON_KEY)
    return reason if isinstance(reason, str) else None
