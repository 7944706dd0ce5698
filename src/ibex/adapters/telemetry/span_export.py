"""The export of spans: a bounded queue, a thread that sends batches, and metrics of the results.

The queue and the thread are those of the OpenTelemetry SDK, which queues a span by appending it to a deque. If the
queue is full, this module drops all spans of a request, so that the SDK never drops only some of them (ADR 0032).

Requires the extra ``otel``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.clock import Clock

_LOG: structlog.typing.FilteringBoundLogger = structlog.get_logger(source="ibex.spans")
FLUSH_TIMEOUT_S: Final = 2.0
"""The time for sending the last spans when the process ends. Spans matter less than the record, so it is short."""
ABORT_TIMEOUT_S: Final = 0.5
"""The additional time for a running export to fail after it was aborted."""
_NO_ANSWER: Final = "no answer in time"
_STATUSES: Final = range(100, 600)
_LOG_INTERVAL_NS: Final = 60 * 1_000_000_000


class SpanExport:
    """Queues spans on the event loop, and exports them in a thread. Drops spans while it is not open.

    ``max_queue`` and ``max_batch`` are numbers of spans. The thread encodes a batch in a few milliseconds of Python.
    """

    def __init__(
        self,
        make_exporter: Callable[[], SpanExporter],
        registry: Registry,
        clock: Clock,
        *,
        max_queue: int,
        max_batch: int,
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        self._make_exporter = make_exporter
        self._clock = clock
        self._max_queue = max_queue
        self._max_batch = min(max_batch, max_queue)
        self._flush_timeout_s = flush_timeout_s
        self._offered = 0
        self._sender: _Sender | None = None
        self._processor: BatchSpanProcessor | None = None
        spans = registry.counters("spans_total", "OpenTelemetry spans, by outcome.", "outcome")
        self._exported, self._failed = spans.of("exported"), spans.of("failed")
        self._dropped = spans.of("dropped")
        registry.on_refresh(self._refresh)

    async def open(self) -> None:
        """Create the exporter, and start the thread. If the exporter rejects a setting, log it and drop all spans."""
        try:
            self._sender = _Sender(self._make_exporter, self._clock)
        except Exception as error:  # noqa: BLE001 - variables of the platform, which other programs may understand
            _LOG.warning("OpenTelemetry rejected a setting. No spans are exported.", reason=type(error).__name__)
            return
        self._processor = BatchSpanProcessor(
            self._sender, max_queue_size=self._max_queue, max_export_batch_size=self._max_batch
        )

    def take(self, spans: Sequence[ReadableSpan]) -> None:
        """Queue all spans of one request, or drop all if the queue lacks room. Never blocks."""
        if self._processor is None or self._sender is None or self._queued() + len(spans) > self._max_queue:
            self._dropped.add(len(spans))
            return
        self._offered += len(spans)
        for span in spans:
            self._processor.on_end(span)

    async def close(self) -> None:
        """Send the queued spans within the timeout, then drop and count the rest. Idempotent."""
        processor, sender = self._processor, self._sender
        if processor is None or sender is None:
            return
        self._processor = None
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            processor.shutdown()  # type: ignore[no-untyped-call]
            with suppress(RuntimeError):  # the loop is already closed
                loop.call_soon_threadsafe(done.set)

        # A daemon thread, because the collector can hang and the interpreter must not wait for it at exit.
        threading.Thread(target=shut_down, name="ibex-spans-close", daemon=True).start()
        if not await _is_set_within(self._flush_timeout_s, done):
            sender.abort()
            await _is_set_within(ABORT_TIMEOUT_S, done)
        self._refresh()
        self._failed.add(self._queued())
        sender.stop_listening()

    def _queued(self) -> int:
        """Return the number of spans that no batch contains yet, which is at least the size of the SDK's queue."""
        return 0 if self._sender is None else self._offered - self._sender.taken

    def _refresh(self) -> None:
        """Copy the thread's counts into the metrics, which only the event loop may write."""
        if self._sender is not None:
            self._exported.catch_up(self._sender.exported)
            self._failed.catch_up(self._sender.failed)


async def _is_set_within(timeout_s: float, event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


class _Sender(SpanExporter):
    """A ``SpanExporter`` that wraps the real one. It counts spans, and logs a failure at most once a minute.

    The SDK logs several lines for each batch, with exception messages that can contain the value of a header. Those
    lines are parsed for the kind of failure, and suppressed.
    """

    def __init__(self, make_exporter: Callable[[], SpanExporter], clock: Clock) -> None:
        self.taken = 0
        self.exported = 0
        self.failed = 0
        self._clock = clock
        self._aborted = False
        self._is_failing = False
        self._logged_ns: int | None = None
        self._sdk_lines = _SdkLines()
        self._sdk_lines.listen()
        try:
            self._exporter = make_exporter()
        except BaseException:
            self._sdk_lines.stop_listening()
            raise
        self._sdk_lines.is_starting = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch. The SDK calls this in its thread, one batch at a time."""
        if self._aborted:
            return SpanExportResult.FAILURE  # ``SpanExport.close`` counts these spans as failed
        self.taken += len(spans)
        self._sdk_lines.reason = _NO_ANSWER
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - otherwise the SDK logs its message
            self._sdk_lines.reason = type(error).__name__
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self.exported += len(spans)
            self._report_success()
        else:
            self.failed += len(spans)
            self._report_failure()
        return result

    def _report_success(self) -> None:
        if self._is_failing:
            self._is_failing = False
            _LOG.info("spans are exported again")

    def _report_failure(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._logged_ns is None or now_ns - self._logged_ns >= _LOG_INTERVAL_NS:
            self._logged_ns = now_ns
            self._is_failing = True
            _LOG.warning("spans are not exported", reason=self._sdk_lines.reason, lost=self.failed)

    def abort(self) -> None:
        """Make the running export fail soon, and every later one at once."""
        self._aborted = True
        self._exporter.shutdown()

    def shutdown(self) -> None:
        """Close the exporter, unless ``abort`` has closed it."""
        if not self._aborted:
            self._exporter.shutdown()

    def stop_listening(self) -> None:
        """Stop handling the SDK's log lines."""
        self._sdk_lines.stop_listening()


class _SdkLines(logging.Handler):
    """A log handler for the SDK. ``reason`` is the kind of the last failure: an HTTP status or an exception type.

    Complaints about settings, which the SDK logs when it starts, are logged again without the values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_starting = True
        self.reason = _NO_ANSWER
        self._logger = logging.getLogger("opentelemetry")

    def listen(self) -> None:
        """Receive the SDK's log records, and keep them from the root logger."""
        self._logger.addHandler(self)
        self._logger.propagate = False

    def stop_listening(self) -> None:
        """Pass the SDK's log records to the root logger again."""
        self._logger.removeHandler(self)
        self._logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Extract the kind of failure from a log record."""
        if self.is_starting:
            _LOG.warning("OpenTelemetry rejected a setting", about=str(record.msg))
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, BaseException):
                self.reason = type(argument).__name__
            elif isinstance(argument, int) and argument in _STATUSES:
                self.reason = f"HTTP {argument}"
