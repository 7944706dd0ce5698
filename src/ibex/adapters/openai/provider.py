"""OpenAI's chat completions, asked over an httpx transport."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx

from ibex import __version__
from ibex.adapters.http_client.connection import StaleConnectionError
from ibex.adapters.http_client.failures import FAILURES
from ibex.adapters.http_client.response_body import MAX_BODY_BYTES, ResponseBody, TimeLimits
from ibex.adapters.http_client.retry import RETRIED_FAILURES, RETRIED_STATUSES, RetryPolicy, asked_delay_s, next_delay
from ibex.adapters.http_client.upstream import EVENT_STREAM, upstream_over
from ibex.adapters.openai.errors import AttemptInfo, RefusedAnswer, error_of_answer, error_of_failure, no_completion
from ibex.adapters.openai.stream import OpenAIStream
from ibex.domain.proxying.provider import ProviderBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ibex.adapters.http_client.transport import Http1Transport
    from ibex.adapters.http_client.upstream import UpstreamResponse
    from ibex.adapters.openai.config import OpenAIConfig
    from ibex.domain.clock import Clock
    from ibex.domain.errors import IbexError
    from ibex.domain.proxying.provider import ProviderRequest

MAX_ERROR_BODY_BYTES: Final = 64 * 1024
MAX_ERROR_BODY_S: Final = 5.0
MAX_REQUEST_ID_LENGTH: Final = 256
EVENT_STREAMS: Final = frozenset({EVENT_STREAM, "text/plain", ""})
"""What servers of OpenAI's API call a stream of events; some say nothing, or the default of their framework."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A try that failed. ``asked_s``: how long the provider asks to wait, in seconds.

    ``was_stale``: the connection had been closed before the request could be read.
    """

    error: IbexError
    may_retry: bool = False
    asked_s: float | None = None
    was_stale: bool = False


class OpenAIProvider:
    """A ``Provider`` over OpenAI's API or a server that speaks it.

    The transport is used directly, not through ``httpx.AsyncClient``: that would follow redirects, keep cookies and
    cost more than all of IBEX's own work on a request. Whoever made the transport closes it.
    """

    name = "openai"

    def __init__(
        self,
        config: OpenAIConfig,
        transport: Http1Transport | httpx.AsyncBaseTransport,
        clock: Clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Take ``sleep`` in seconds and ``jitter``, which gives numbers from 0 to 1."""
        self.models = config.models
        self.reports_stream_usage = config.stream_usage
        self._config = config
        self._policy = RetryPolicy(config.max_retries, config.retry_base_delay_s)
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        url = config.root_url()
        headers = (
            (b"host", url.netloc),
            (b"authorization", b"Bearer " + config.api_key.reveal().encode("ascii")),
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"ibex/" + __version__.encode("ascii")),
        )
        self._upstream = upstream_over(transport, url, headers, config.connect_timeout_s)

    async def complete(self, request: ProviderRequest) -> ProviderBody | OpenAIStream:
        """Ask, again where that is safe, and return the answer; see ``Provider``.

        Raises ``OverloadedError`` too, where all connections are in use.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.request_timeout_s
        attempts, fresh = 0, False
        while True:
            attempts += 1
            outcome = await self._try(request, attempts, deadline, fresh=fresh)
            if not isinstance(outcome, _Failure):
                return outcome
            if outcome.was_stale and not fresh and self._policy.max_retries:
                fresh = True  # nothing is wrong with the provider, so there is nothing to wait for
                continue
            delay = self._delay(outcome, attempts - 1 - fresh, deadline - loop.time())
            if delay is None:
                try:
                    raise outcome.error
                finally:
                    del outcome  # its error's traceback has this frame
            await self._sleep(delay)

    def _delay(self, failure: _Failure, retries: int, left_s: float) -> float | None:
        if not failure.may_retry:
            return None
        return next_delay(self._policy, retries, jitter=self._jitter(), asked_s=failure.asked_s, left_s=left_s)

    async def _try(
        self, request: ProviderRequest, attempts: int, deadline: float, *, fresh: bool
    ) -> ProviderBody | OpenAIStream | _Failure:
        now = asyncio.get_running_loop().time()
        limits = TimeLimits(deadline, now + self._config.first_byte_timeout_s, self._config.idle_timeout_s)
        try:
            by = min(limits.first_byte, deadline)
            stream = request.is_streaming
            answer = await self._upstream.post(request.path, request.body, stream=stream, by=by, fresh=fresh)
        except FAILURES as failure:
            return _Failure(
                error_of_failure(failure, AttemptInfo(attempts)),
                may_retry=isinstance(failure, RETRIED_FAILURES),
                was_stale=isinstance(failure, StaleConnectionError),
            )
        attempt = AttemptInfo(attempts, _provider_request_id(answer))
        body = ResponseBody(answer, limits)
        if request.is_streaming and _begins_stream(answer) and body.is_readable:
            return OpenAIStream(body, attempt)
        try:
            if 200 <= answer.status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
                return await _completion(request, answer, body, attempt)
            return await self._refusal(answer, body, attempt)
        finally:
            await body.aclose()

    async def _refusal(self, answer: UpstreamResponse, body: ResponseBody, attempt: AttemptInfo) -> _Failure:
        asked_s = asked_delay_s(answer.header, self._clock.now())
        refused = RefusedAnswer(answer.status, await _error_text(body), asked_s)
        return _Failure(error_of_answer(refused, attempt), answer.status in RETRIED_STATUSES, asked_s)


async def _completion(
    request: ProviderRequest, answer: UpstreamResponse, body: ResponseBody, attempt: AttemptInfo
) -> ProviderBody | _Failure:
    """Read a success. What is not JSON as a whole is none, and no try of ours made it so: it is not asked for again."""
    if request.is_streaming or not body.is_readable or not _may_be_json(answer):
        return _Failure(no_completion(attempt))
    try:
        text = await body.read_all(MAX_BODY_BYTES)
    except FAILURES as failure:
        return _Failure(error_of_failure(failure, attempt))
    if not text.lstrip().startswith(b"{") or not text.rstrip().endswith(b"}"):
        await body.discard_connection()
        return _Failure(no_completion(attempt))
    return ProviderBody(text, attempt.attempts, attempt.provider_request_id)


async def _error_text(body: ResponseBody) -> bytes | None:
    """Return the body of an error; None if it is too large, too slow or broken: the status says enough."""
    body.limits = body.limits.until(asyncio.get_running_loop().time() + MAX_ERROR_BODY_S)
    if not body.is_readable:
        return None
    try:
        return await body.read_all(MAX_ERROR_BODY_BYTES)
    except FAILURES:
        return None


def _begins_stream(answer: UpstreamResponse) -> bool:
    return answer.status == httpx.codes.OK and _media_type(answer) in EVENT_STREAMS


def _media_type(answer: UpstreamResponse) -> str:
    return answer.header("content-type").partition(";")[0].strip().lower()


def _may_be_json(answer: UpstreamResponse) -> bool:
    media_type = _media_type(answer)
    return media_type in {"", "application/json"} or media_type.endswith("+json")


def _provider_request_id(answer: UpstreamResponse) -> str | None:
    """Return the provider's id if it is one that can be passed on in a header and kept."""
    value = answer.header("x-request-id")
    fits = 0 < len(value) <= MAX_REQUEST_ID_LENGTH and value.isascii() and value.isprintable()
    return value if fits else None
