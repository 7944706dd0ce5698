"""The client of auth. It limits the time and the number of calls, and retries them on another replica (ADR 0046)."""

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
# One event loop makes about 5,000 calls a second: this many take 25 ms, and more would all miss the deadline.
MAX_IN_FLIGHT: Final = 128
_LOG: Final = logging.getLogger(__name__)
_OPTIONS: Final = (
    # Two channels of one process must not share a connection: a new channel would inherit the backoff of a closed one.
    ("grpc.use_local_subchannel_pool", 1),
    # HTTP proxies from the environment are for the provider.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # This is also the timeout of one attempt to connect. The default, 20 s, would all be lost on a server that hangs.
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection that hangs is closed after 2 s, with or without calls on it. While the peer sends nothing at all, the
    # timeout of the HTTP/2 ping applies, which is 60 s by default.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 256 << 10),
    # Each channel has one address. With this policy, unlike with pick_first, the state stays TRANSIENT_FAILURE until
    # the channel is connected, so that an outage is logged once.
    ("grpc.lb_policy_name", "round_robin"),
)


@dataclass(frozen=True, slots=True)
class ChannelSecurity:
    """The service credential to present to auth (None: no credential), and TLS (None: plaintext)."""

    service_credential: str | None = field(default=None, repr=False)
    tls: ClientTls | None = None


class CredentialRefusedError(ServiceDegradedError):
    """Auth answers, but refuses the service credential, or requires one and received none."""


class GrpcAuthChannel:
    """Calls the replicas of auth in turn. It retries a failed call once on another replica, within its deadline."""

    def __init__(
        self,
        address: str,
        request_id: Callable[[], UUID],
        *,
        security: ChannelSecurity = ChannelSecurity(),
        timeout_s: float = TIMEOUT_S,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        """Set the address, the timeout of a call in seconds, and the maximum number of concurrent calls.

        The address is ``host:port``, ``dns:///name:port``, or several of them separated by commas. ``request_id``
        returns the id of the current request. The constructor does not connect. Raises ``ValueError`` for an invalid
        address, and for a limit that is not positive.
        """
        if timeout_s <= 0 or max_in_flight <= 0:
            raise ValueError(f"timeout_s ({timeout_s}) and max_in_flight ({max_in_flight}) must be positive")
        self.replicas = Replicas(endpoints_in(address), self._connect, self._check)
        self._request_id = request_id
        self._tls = security.tls
        self._authorization: Metadata = ()
        if security.service_credential is not None:
            self.present(security.service_credential)
        self._timeout_s = timeout_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._credential_refused = False
        self._is_open = False
        self._watched: Replica | None = None

    def present(self, credential: str) -> None:
        """Present this service credential with each later call. Calls in flight and running watches keep theirs."""
        self._authorization = ((AUTHORIZATION_KEY, f"Bearer {credential.strip()}"),)

    async def change_tls(self, tls: ClientTls) -> bool:
        """Replace the connection to each replica by one with these certificates; see ``Replicas.renew``.

        Return False if they are in use already. Raises ``ValueError`` if a replica does not accept them; the former
        ones then stay in use.
        """
        former = self._tls
        if tls == former:
            return False
        if former is None:
            raise ValueError("TLS to auth cannot be turned on without a restart")
        self._tls = tls
        if not await self.replicas.renew():
            self._tls = former
            raise ValueError("auth does not accept a connection with the new certificates")
        return True

    async def open(self) -> None:
        """Start to connect, in this event loop, and keep reconnecting. Does not wait until auth is reachable."""
        if not self._is_open:
            self._is_open = True
            await self.replicas.open()

    async def close(self) -> None:
        """Disconnect. Calls in flight fail. Idempotent."""
        self._is_open, self._watched = False, None
        await self.replicas.close()

    async def ping(self) -> None:
        """Check the health of every replica. Raises ``ServiceDegradedError`` if none reports SERVING within 0.5 s.

        A replica reports SERVING even while its database is down. Raises ``CredentialRefusedError`` if the replicas
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
        """Wait, without a time limit, until a replica is connected."""
        await self.replicas.connected.wait()

    async def validate_token(self, request: auth_pb2.ValidateTokenRequest) -> auth_pb2.ValidateTokenResponse:
        """Call ValidateToken. Raises ``CallFailedError``, at once if ``max_in_flight`` calls are in flight."""
        response: auth_pb2.ValidateTokenResponse = await self._bounded("ValidateToken", request)
        return response

    async def validate_agent(self, request: auth_pb2.ValidateAgentRequest) -> auth_pb2.ValidateAgentResponse:
        """Call ValidateAgent. Raises ``CallFailedError``, at once if ``max_in_flight`` calls are in flight."""
        response: auth_pb2.ValidateAgentResponse = await self._bounded("ValidateAgent", request)
        return response

    def watch(self, requests: AsyncIterator[auth_pb2.WatchRequest]) -> Any:
        """Open a stream to another replica than the last stream, if there is one. Return gRPC's call object.

        Raises ``CallFailedError`` if there is no replica.
        """
        replica = self._watched = self.replicas.next(self._watched) or self.replicas.next()
        if replica is None:
            raise CallFailedError(grpc.StatusCode.UNAVAILABLE)
        return replica.service.Watch(requests, metadata=self._metadata())

    async def token_filter(
        self, request: auth_pb2.TokenFilterRequest, timeout_s: float
    ) -> auth_pb2.TokenFilterResponse:
        """Call TokenFilter, and retry once on another replica. The timeout applies to each attempt.

        Raises ``CallFailedError``.
        """
        replica = self.replicas.next()
        answer = await self._ask(replica, "TokenFilter", request, timeout_s)
        if _is_retryable(answer):
            other = self.replicas.next(replica)
            if other is not None:
                answer = await self._ask(other, "TokenFilter", request, timeout_s)
        if isinstance(answer, _Failure):
            raise CallFailedError(answer.status, answer.reason)
        response: auth_pb2.TokenFilterResponse = answer
        return response

    async def _bounded(self, method: str, request: Any) -> Any:
        """Return the response. Raises ``CallFailedError``.

        Attempts return failures instead of raising them. A local variable that holds a raised error would form a
        reference cycle through its traceback (ADR 0033).
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
            self._log_credential_refusal(answer.reason)
            raise CallFailedError(answer.status, answer.reason)
        self._log_credential_refusal(None)
        return answer

    async def _hedged(self, first: Replica | None, method: str, request: Any) -> Any:
        """Return the response of the first replica, of another if the first fails or is silent, or a ``_Failure``."""
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        attempts = [self._begin(first, method, request, deadline_s)]
        try:
            await asyncio.wait(attempts, timeout=self._timeout_s / 2)
            other = self._other(first, attempts[0])
            if other is not None:
                attempts.append(self._begin(other, method, request, deadline_s))
            pending = [attempt for attempt in attempts if not attempt.done()]
            while pending and all(_is_retryable(attempt.result()) for attempt in attempts if attempt.done()):
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
        """Return the replica for a second attempt.

        None if the first attempt succeeded or brought a decision, if there is no other replica, or if more than half of
        ``max_in_flight`` calls are in flight: retries must not double an overload.
        """
        if attempt.done() and not _is_retryable(attempt.result()):
            return None
        if first is not None:
            first.avoid()
        if 2 * self._in_flight > self._max_in_flight:
            return None
        return self.replicas.next(first)

    async def _check(self, replica: Replica) -> _Health | None:
        """Return why a replica does not serve; None if it serves."""
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

    def _log_credential_refusal(self, reason: str | None) -> None:
        """Log once when auth starts to refuse the credential: every request fails, and clients cannot see why."""
        refused = reason == Reason.SERVICE_CREDENTIAL
        if refused and not self._credential_refused:
            _LOG.error("auth refuses the service credential; the proxy must present the one that auth is started with")
        self._credential_refused = refused

    def _metadata(self) -> Metadata:
        return (*self._authorization, (REQUEST_ID_KEY, str(self._request_id())))

    async def _ask(self, replica: Replica | None, method: str, request: Any, timeout_s: float) -> Any:
        """Return the response of a replica, or a ``_Failure`` if it fails or is None."""
        if replica is None:
            return _Failure(grpc.StatusCode.UNAVAILABLE, None)
        return await self._run(getattr(replica.service, method), request, timeout_s)

    async def _run(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            response = await method(request, timeout=timeout_s, metadata=self._metadata(), wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            return _Failure(error.code(), _reason(error))
        except grpc.aio.UsageError:  # the channel has been closed
            return _Failure(grpc.StatusCode.UNAVAILABLE, None)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            return _Failure(grpc.StatusCode.CANCELLED, None)  # the channel was closed during the call
        if response is None:  # grpc's way to report a response that it could not decode
            return _Failure(grpc.StatusCode.INTERNAL, None)
        return response


class _Failure(NamedTuple):
    """The status and the reason of a failed call. It is returned, not raised, so that a task holds no traceback."""

    status: grpc.StatusCode
    reason: str | None


class _Health(Enum):
    UNREACHABLE = auto()
    NOT_SERVING = auto()
    REFUSES_CREDENTIAL = auto()


def _is_being_cancelled() -> bool:
    """Return whether the current task is being cancelled.

    This is a function so that no frame of the cancelled call refers to the task: it would form a reference cycle
    through the traceback (ADR 0033).
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_retryable(answer: Any) -> bool:
    """Return whether another replica may answer better: this one did not answer, or could not reach its database."""
    return isinstance(answer, _Failure) and answer.reason in (None, Reason.SOURCE_UNAVAILABLE)


def _best(answers: list[Any]) -> Any:
    """Return the first decision; without one, a failure with a reason (source unavailable), else the first failure."""
    for answer in answers:
        if not _is_retryable(answer):
            return answer
    return next((answer for answer in answers if answer.reason is not None), answers[0])


def _reason(error: grpc.aio.AioRpcError) -> str | None:
    reason = (error.trailing_metadata() or {}).get(REASON_KEY)
    return reason if isinstance(reason, str) else None
