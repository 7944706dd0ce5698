"""The way of spans out of the process: a bounded queue, a thread that sends it in batches, and what became of them.

The queue and the thread are the SDK's, which takes a span in by appending it to a deque. What there is no room for is
turned away here, whole requests at a time, so that the SDK never drops a part of one (ADR 0032).

Needs the extra ``otel``.
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
"""What sending the last spans may take when the process ends. Less than the record's sinks get: these keep nothing."""
GIVING_UP_S: Final = 0.5
_NO_ANSWER: Final = "no answer in time"
_STATUSES: Final = range(100, 600)
_LINE_EVERY_NS: Final = 60 * 1_000_000_000


class SpanExport:
    """Takes spans on the event loop, quickly and whatever happens; open it first.

    ``max_queue`` and ``max_batch`` count spans. The thread encodes a batch in Python for some milliseconds.
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
        spans = registry.counters("spans_total", "OpenTelemetry spans, by what became of them.", "outcome")
        self._exported, self._failed = spans.of("exported"), spans.of("failed")
        self._dropped = spans.of("dropped")
        registry.refreshed_by(self._refresh)

    async def open(self) -> None:
        """Begin to send. Raises what the exporter does where it is told something that it cannot be."""
        self._sender = _Sender(self._make_exporter, self._clock)
        self._processor = BatchSpanProcessor(
            self._sender, max_queue_size=self._max_queue, max_export_batch_size=self._max_batch
        )

    def take(self, spans: Sequence[ReadableSpan]) -> None:
        """Queue the spans of one request, all or none; never waits."""
        if self._processor is None or self._sender is None or self._waiting() + len(spans) > self._max_queue:
            self._dropped.add(len(spans))
            return
        self._offered += len(spans)
        for span in spans:
            self._processor.on_end(span)

    async def close(self) -> None:
        """Send what waits, within the bound; what cannot be sent by then is lost and counted. Idempotent."""
        processor, sender = self._processor, self._sender
        if processor is None or sender is None:
            return
        self._processor = None
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            processor.shutdown()  # type: ignore[no-untyped-call]
            with suppress(RuntimeError):  # nobody waits any more: the loop is closed
                loop.call_soon_threadsafe(over.set)

        # A thread that the interpreter does not wait for at its end: what it waits for may not answer for long.
        threading.Thread(target=shut_down, name="ibex-spans-close", daemon=True).start()
        if not await _within(self._flush_timeout_s, over):
            sender.give_up()
            await _within(GIVING_UP_S, over)
        self._refresh()
        self._failed.add(self._waiting())
        sender.stop_listening()

    def _waiting(self) -> int:
        """Return how many spans no batch has taken yet: at least so many as the SDK's queue holds."""
        return 0 if self._sender is None else self._offered - self._sender.taken

    def _refresh(self) -> None:
        """Bring the metrics up to date, which are the event loop's, with what the thread has counted."""
        if self._sender is not None:
            self._exported.catch_up(self._sender.exported)
            self._failed.catch_up(self._sender.failed)


async def _within(timeout_s: float, event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


class _Sender(SpanExporter):
    """The exporter as the SDK's thread sees it. It counts, and writes at most one line a minute of what goes wrong.

    The SDK's own lines, several for each batch, hold messages of exceptions, which may hold a header's value: they are
    read for what kind of failure it was, and not written.
    """

    def __init__(self, make_exporter: Callable[[], SpanExporter], clock: Clock) -> None:
        self.taken = 0
        self.exported = 0
        self.failed = 0
        self._clock = clock
        self._given_up = False
        self._is_failing = False
        self._told_ns: int | None = None
        self._sdk_lines = _SdkLines()
        self._sdk_lines.listen()
        try:
            self._exporter = make_exporter()
        except BaseException:
            self._sdk_lines.stop_listening()
            raise
        self._sdk_lines.is_starting = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; the SDK calls this in its thread, one batch at a time."""
        if self._given_up:
            return SpanExportResult.FAILURE  # and counted as waiting by who gave up
        self.taken += len(spans)
        self._sdk_lines.reason = _NO_ANSWER
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - the SDK would log its message
            self._sdk_lines.reason = type(error).__name__
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self.exported += len(spans)
            self._went_well()
        else:
            self.failed += len(spans)
            self._went_wrong()
        return result

    def _went_well(self) -> None:
        if self._is_failing:
            self._is_failing = False
            _LOG.info("spans are exported again")

    def _went_wrong(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._told_ns is None or now_ns - self._told_ns >= _LINE_EVERY_NS:
            self._told_ns = now_ns
            self._is_failing = True
            _LOG.warning("spans are not exported", reason=self._sdk_lines.reason, lost=self.failed)

    def give_up(self) -> None:
        """Let what is being sent fail soon, and all that comes after it at once."""
        self._given_up = True
        self._exporter.shutdown()

    def shutdown(self) -> None:
        """Close the exporter, unless that was done by giving up."""
        if not self._given_up:
            self._exporter.shutdown()

    def stop_listening(self) -> None:
        """Leave the SDK's lines to others."""
        self._sdk_lines.stop_listening()


class _SdkLines(logging.Handler):
    """Takes the SDK's log lines in; ``reason`` is the kind of the latest failure, a status or an exception's type.

    What it finds wrong with its settings at the start is written, without the values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_starting = True
        self.reason = _NO_ANSWER
        self._logger = logging.getLogger("opentelemetry")

    def listen(self) -> None:
        """Take them from now on, instead of whoever has them."""
        self._logger.addHandler(self)
        self._logger.propagate = False

    def stop_listening(self) -> None:
        """Take them no more."""
        self._logger.removeHandler(self)
        self._logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Remember what kind of failure a line tells of."""
        if self.is_starting:
            _LOG.warning("OpenTelemetry does not take a setting", about=str(record.msg))
        for told in record.args if isinstance(record.args, tuple) else ():
            if isinstance(told, BaseException):
                self.reason = type(told).__name__
            elif isinstance(told, int) and told in _STATUSES:
                self.reason = f"HTTP {told}"
