"""The provider for OpenAI's API and compatible servers."""

from __future__ import annotations

import asyncio
import math
import random
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ibex import __version__
from ibex.adapters.http_client.connection import StaleConnectionError
from ibex.adapters.http_client.failures import FAILURES
from ibex.adapters.http_client.response_body import MAX_BODY_BYTES, ResponseBody, TimeLimits
from ibex.adapters.http_client.retry import (
    RetryPolicy,
    may_retry_failure,
    may_retry_status,
    next_delay,
    requested_delay_s,
)
from ibex.adapters.http_client.upstream import EVENT_STREAM, upstream_over
from ibex.adapters.openai.errors import (
    AttemptInfo,
    ErrorResponse,
    error_from_exception,
    error_from_response,
    not_a_completion,
)
from ibex.adapters.openai.model_list import MAX_LIST_BYTES, parse_model_list
from ibex.adapters.openai.stream import OpenAIStream
from ibex.adapters.openai_api.operations import OPERATION_NAMES
from ibex.domain.proxying.provider import ProviderBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import httpx

    from ibex.adapters.http_client.transport import Http1Transport
    from ibex.adapters.http_client.upstream import Upstream, UpstreamResponse
    from ibex.adapters.openai.config import ApiKey, OpenAIConfig
    from ibex.adapters.openai.extra_headers import ExtraHeaders
    from ibex.domain.clock import Clock
    from ibex.domain.errors import IbexError
    from ibex.domain.proxying.provider import ProviderModel, ProviderRequest

MAX_ERROR_BODY_BYTES: Final = 64 * 1024
MAX_ERROR_BODY_S: Final = 5.0
MAX_REQUEST_ID_LENGTH: Final = 256
EVENT_STREAM_TYPES: Final = frozenset({EVENT_STREAM, "text/plain", ""})
"""The media types of event streams. Some servers send none, or the default of their framework."""
_MILLISECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_STREAM_STATUSES: Final = frozenset({200, 201})
_START_OF_EVENTS: Final = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*(?:data|event|id|retry)?:")


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt that failed. ``requested_s`` is the delay that the provider asks for, in seconds.

    ``was_stale`` is whether the server had closed the connection before it received the request.
    """

    error: IbexError
    may_retry: bool = False
    requested_s: float | None = None
    was_stale: bool = False


class OpenAIProvider:
    """A ``Provider`` over OpenAI's API or a compatible server.

    It uses the transport directly, not ``httpx.AsyncClient``, which would follow redirects, keep cookies and cost more
    than all of IBEX's own work on a request. The caller closes the transport.
    """

    name = "openai"
    operations = OPERATION_NAMES

    def __init__(
        self,
        config: OpenAIConfig,
        transport: Http1Transport | httpx.AsyncBaseTransport,
        clock: Clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """``sleep`` takes seconds; ``jitter`` returns a number from 0 to 1."""
        self.models = config.models
        self.dialect = config.dialect
        self._config = config
        self._policy = RetryPolicy(config.max_retries, config.retry_base_delay_s)
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._transport = transport
        self._upstream = self._upstream_with(config)

    def use_credentials(self, api_key: ApiKey, headers: ExtraHeaders) -> None:
        """Send this key and these headers from the next attempt on. Requests in flight keep theirs."""
        self._upstream = self._upstream_with(replace(self._config, api_key=api_key, headers=headers))

    def _upstream_with(self, config: OpenAIConfig) -> Upstream:
        url = config.root_url()
        own = (
            (b"host", url.netloc),
            (b"authorization", b"Bearer " + config.api_key.reveal().encode("ascii")),
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"ibex/" + __version__.encode("ascii")),
        )
        return upstream_over(self._transport, url, config.headers.over(own), config.connect_timeout_s)

    async def complete(self, request: ProviderRequest) -> ProviderBody | OpenAIStream:
        """Send the request, retry where that is safe, and return the response; see ``Provider``.

        Also raises ``OverloadedError`` if all connections are in use.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.request_timeout_s
        attempts, fresh = 0, False
        while True:
            attempts += 1
            outcome = await self._attempt(request, attempts, deadline, fresh=fresh)
            if not isinstance(outcome, _Failure):
                return outcome
            if outcome.was_stale and not fresh and self._policy.max_retries:
                fresh = True  # the provider is healthy, so retry without a delay
                continue
            delay = self._delay(outcome, attempts - 1 - fresh, deadline - loop.time())
            if delay is None:
                try:
                    raise outcome.error
                finally:
                    del outcome  # break the reference cycle: the error's traceback contains this frame
            await self._sleep(delay)

    async def list_models(self) -> Sequence[ProviderModel]:
        """Ask for the models; see ``Provider``. The connection is new, because an idle one may have died."""
        now = asyncio.get_running_loop().time()
        config = self._config
        limits = TimeLimits(now + config.request_timeout_s, now + config.first_byte_timeout_s, config.idle_timeout_s)
        by = min(limits.first_byte, limits.deadline)
        try:
            response = await self._upstream.send("GET", "models", b"", stream=False, by=by, fresh=True)
        except FAILURES as failure:
            raise error_from_exception(failure, AttemptInfo(1)) from None
        attempt = AttemptInfo(1, _provider_request_id(response), _processing_ms(response))
        body = ResponseBody(response, limits)
        try:
            if 200 <= response.status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
                return await _read_models(body, attempt)
            raise (await self._read_error(response, body, attempt, 0.0)).error
        finally:
            await body.aclose()

    def _delay(self, failure: _Failure, retries: int, remaining_s: float) -> float | None:
        if not failure.may_retry:
            return None
        return next_delay(
            self._policy, retries, jitter=self._jitter(), requested_s=failure.requested_s, remaining_s=remaining_s
        )

    async def _attempt(
        self, request: ProviderRequest, attempts: int, deadline: float, *, fresh: bool
    ) -> ProviderBody | OpenAIStream | _Failure:
        now = asyncio.get_running_loop().time()
        limits = TimeLimits(deadline, now + self._config.first_byte_timeout_s, self._config.idle_timeout_s)
        try:
            by = min(limits.first_byte, deadline)
            stream, added = request.is_streaming, _trace_headers(request)
            response = await self._upstream.send(
                request.method, request.path, request.body, stream=stream, by=by, fresh=fresh, headers=added
            )
        except FAILURES as failure:
            return _Failure(
                error_from_exception(failure, AttemptInfo(attempts)),
                may_retry=may_retry_failure(failure, asyncio.get_running_loop().time() - now),
                was_stale=isinstance(failure, StaleConnectionError),
            )
        attempt = AttemptInfo(attempts, _provider_request_id(response), _processing_ms(response))
        body = ResponseBody(response, limits)
        if request.is_streaming and response.status in _STREAM_STATUSES and body.is_readable:
            body.limits = TimeLimits(math.inf, limits.first_byte, limits.idle_s)  # only silence ends a stream
            if _media_types(response) <= EVENT_STREAM_TYPES:
                return OpenAIStream(body, attempt)
            return await _stream_of_another_type(body, attempt)
        try:
            if 200 <= response.status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
                return await _read_completion(request, body, attempt)
            return await self._read_error(response, body, attempt, asyncio.get_running_loop().time() - now)
        finally:
            await body.aclose()

    async def _read_error(
        self, response: UpstreamResponse, body: ResponseBody, attempt: AttemptInfo, elapsed_s: float
    ) -> _Failure:
        requested_s = requested_delay_s(response.header, self._clock.now())
        refused = ErrorResponse(response.status, await _error_text(body), requested_s)
        error = error_from_response(refused, attempt)
        may_retry = may_retry_status(response.status, response.header("x-should-retry"), elapsed_s)
        return _Failure(error, may_retry and not error.is_hopeless, requested_s)


async def _stream_of_another_type(body: ResponseBody, attempt: AttemptInfo) -> OpenAIStream | _Failure:
    """Return the stream if the first bytes are those of an event stream, whatever the media type says."""
    is_stream = False
    try:
        first = await body.read() or b""
        is_stream = _START_OF_EVENTS.match(first) is not None
    except FAILURES as failure:
        return _Failure(error_from_exception(failure, attempt))
    finally:
        if not is_stream:
            await body.aclose()
    return OpenAIStream(body, attempt, first) if is_stream else _Failure(not_a_completion(attempt))


async def _read_completion(
    request: ProviderRequest, body: ResponseBody, attempt: AttemptInfo
) -> ProviderBody | _Failure:
    """Read the body of a success, of any media type. If it does not begin and end like a JSON object, fail at once."""
    if request.is_streaming or not body.is_readable:
        return _Failure(not_a_completion(attempt))
    try:
        text = await body.read_all(MAX_BODY_BYTES)
    except FAILURES as failure:
        return _Failure(error_from_exception(failure, attempt))
    if not text.lstrip().startswith(b"{") or not text.rstrip().endswith(b"}"):
        await body.discard_connection()
        return _Failure(not_a_completion(attempt))
    return ProviderBody(text, attempt.attempts, attempt.provider_request_id, attempt.processing_ms)


async def _read_models(body: ResponseBody, attempt: AttemptInfo) -> Sequence[ProviderModel]:
    """Read the body of a success, of any media type."""
    if not body.is_readable:
        raise not_a_completion(attempt)
    try:
        text = await body.read_all(MAX_LIST_BYTES)
    except FAILURES as failure:
        raise error_from_exception(failure, attempt) from None
    try:
        return parse_model_list(text)
    except ValueError:
        await body.discard_connection()
        raise not_a_completion(attempt) from None


async def _error_text(body: ResponseBody) -> bytes | None:
    """Return the body of an error response; None if it is too large, too slow or corrupt. The status is enough then."""
    body.limits = body.limits.until(asyncio.get_running_loop().time() + MAX_ERROR_BODY_S)
    if not body.is_readable:
        return None
    try:
        return await body.read_all(MAX_ERROR_BODY_BYTES)
    except FAILURES:
        return None


def _media_types(response: UpstreamResponse) -> set[str]:
    """Return the media types without parameters. Some servers send the header twice."""
    return {value.partition(";")[0].strip().lower() for value in response.header("content-type").split(",")}


def _provider_request_id(response: UpstreamResponse) -> str | None:
    """Return the provider's request id; None if it is absent, too long, or not printable ASCII."""
    value = response.header("x-request-id")
    fits = 0 < len(value) <= MAX_REQUEST_ID_LENGTH and value.isascii() and value.isprintable()
    return value if fits else None


def _processing_ms(response: UpstreamResponse) -> int | None:
    """Return the processing time that the provider reports, in milliseconds; None if absent or not a whole number."""
    value = response.header("openai-processing-ms")
    return int(value) if value and _MILLISECONDS.fullmatch(value) else None


def _trace_headers(request: ProviderRequest) -> Sequence[tuple[bytes, bytes]]:
    """Return the ``traceparent`` header (W3C Trace Context); no headers for a request without a trace."""
    trace = request.trace
    if trace is None:
        return ()
    value = b"00-%b-%016x-%02x" % (trace.trace_id.encode("ascii"), trace.span_id, trace.flags)
    return ((b"traceparent", value),)
