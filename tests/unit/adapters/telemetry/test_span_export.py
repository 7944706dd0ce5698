"""Tests of the export of spans, which never blocks a request, counts every span, and logs little."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, TraceFlags

from harness.logs import logged
from harness.memory.clock import ManualClock
from ibex.adapters.telemetry.registry import Registry
from ibex.adapters.telemetry.span_export import SpanExport

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTEXT = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
SDK = logging.getLogger("opentelemetry.exporter.something")
WAIT_S = 10


def spans(count: int) -> list[ReadableSpan]:
    """Return this many spans."""
    return [ReadableSpan(f"span {number}", CONTEXT, resource=Resource({})) for number in range(count)]


@dataclass(slots=True)
class ScriptedExporter(SpanExporter):
    """An exporter with scripted results. A batch blocks until ``let_go`` is set or the exporter is shut down."""

    outcomes: list[SpanExportResult | Exception] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)
    shut_down: int = 0
    deaf: bool = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take a batch."""
        self.batches.append(len(spans))
        self.asked.set()
        assert self.let_go.wait(WAIT_S)
        outcome = self.outcomes.pop(0) if self.outcomes else SpanExportResult.SUCCESS
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is SpanExportResult.FAILURE:
            SDK.error("Failed to export %s batch code: %s, reason: %s", "spans", 401, "canary")
        return outcome

    def shutdown(self) -> None:
        """Fail the batch that is blocked."""
        self.shut_down += 1
        if not self.deaf and not self.let_go.is_set():
            self.outcomes.insert(0, SpanExportResult.FAILURE)
            self.let_go.set()


class Scene:
    """An export with a scripted exporter, and its metrics."""

    def __init__(self, exporter: SpanExporter, **limits: Any) -> None:
        self.registry = Registry("ibex_proxy_")
        self.clock = ManualClock()
        sizes = {"max_queue": 10, "max_batch": 4, "flush_timeout_s": WAIT_S} | limits
        self.export = SpanExport(lambda: exporter, self.registry, self.clock, **sizes)

    def counted(self) -> dict[str, int]:
        """Return the number of spans by outcome."""
        prefix = "ibex_proxy_spans_total{outcome="
        lines = [line for line in self.registry.render()[0].decode().splitlines() if line.startswith(prefix)]
        pairs = (line.removeprefix(prefix).split("} ") for line in lines)
        return {outcome.strip('"'): int(float(number)) for outcome, number in pairs}


async def test_queued_spans_are_exported_before_close_returns() -> None:
    """The SDK's in-memory exporter receives them in order, and each span is counted."""
    exporter = InMemorySpanExporter()
    scene = Scene(exporter)
    await scene.export.open()

    scene.export.take(spans(3))
    scene.export.take(spans(2))
    await scene.export.close()
    await scene.export.close()

    assert [span.name for span in exporter.get_finished_spans()] == [
        *(f"span {n}" for n in (0, 1, 2)),
        "span 0",
        "span 1",
    ]
    assert scene.counted() == {"exported": 5, "failed": 0, "dropped": 0}


async def test_a_hanging_exporter_does_not_block_requests() -> None:
    """Spans are queued until the queue is full. Then all spans of a request are dropped and counted."""
    exporter = ScriptedExporter()
    scene = Scene(exporter)
    await scene.export.open()

    scene.export.take(spans(4))
    assert exporter.asked.wait(WAIT_S)
    for _ in range(4):
        scene.export.take(spans(4))

    assert scene.counted() == {"exported": 0, "failed": 0, "dropped": 8}
    exporter.let_go.set()
    await scene.export.close()
    assert scene.counted() == {"exported": 12, "failed": 0, "dropped": 8}
    assert exporter.batches == [4, 4, 4]
    assert exporter.shut_down == 1


async def test_close_has_a_timeout() -> None:
    """After the timeout, the running export is aborted and the queued ones fail at once."""
    exporter = ScriptedExporter()
    scene = Scene(exporter, flush_timeout_s=0.01)
    await scene.export.open()
    scene.export.take(spans(4))
    scene.export.take(spans(4))

    await scene.export.close()

    assert scene.counted() == {"exported": 0, "failed": 8, "dropped": 0}
    assert exporter.batches == [4]
    assert exporter.shut_down == 1


async def test_close_returns_even_if_the_exporter_cannot_be_aborted() -> None:
    """The queued spans are counted as failed."""
    exporter = ScriptedExporter(deaf=True)
    scene = Scene(exporter, flush_timeout_s=0.01)
    await scene.export.open()
    scene.export.take(spans(4))
    assert exporter.asked.wait(WAIT_S)
    scene.export.take(spans(2))

    await scene.export.close()

    assert scene.counted() == {"exported": 0, "failed": 2, "dropped": 0}
    exporter.let_go.set()
    await _until(lambda: scene.counted() == {"exported": 4, "failed": 2, "dropped": 0})


async def test_spans_are_dropped_while_the_export_is_not_open() -> None:
    """Requests do not fail because of it."""
    scene = Scene(InMemorySpanExporter())
    scene.export.take(spans(1))
    await scene.export.open()
    await scene.export.close()
    scene.export.take(spans(2))

    assert scene.counted() == {"exported": 0, "failed": 0, "dropped": 3}


async def test_an_outage_is_logged_once_a_minute_with_its_kind() -> None:
    """The SDK's lines and their messages are suppressed. The recovery is logged."""
    failure = SpanExportResult.FAILURE
    exporter = ScriptedExporter([failure, failure, ValueError("canary"), SpanExportResult.SUCCESS])
    exporter.let_go.set()
    scene = Scene(exporter, max_batch=1)
    with logged() as lines:
        await scene.export.open()
        for number in range(4):
            if number == 2:
                scene.clock.advance(timedelta(minutes=1))
            exporter.asked.clear()
            scene.export.take(spans(1))
            assert exporter.asked.wait(WAIT_S)
            await _until(lambda wanted=number + 1: sum(scene.counted().values()) == wanted)
        await scene.export.close()

    assert [(line["event"], line.get("reason"), line.get("lost")) for line in lines] == [
        ("spans are not exported", "HTTP 401", 1),
        ("spans are not exported", "ValueError", 3),
        ("spans are exported again", None, None),
    ]
    assert "canary" not in str(lines)
    assert scene.counted() == {"exported": 1, "failed": 3, "dropped": 0}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (("Transient error %s encountered, retrying in %.2fs.", ConnectionError("canary"), 1.0), "ConnectionError"),
        (("Failed to export %s batch due to timeout.", "spans"), "no answer in time"),
        (("Dropping span batch: %d bytes.", 70_000_000), "no answer in time"),
        (("no arguments",), "no answer in time"),
    ],
)
async def test_the_sdks_lines_are_parsed_and_suppressed(said: tuple[Any, ...], reason: str) -> None:
    """IBEX logs only the kind of failure. Afterwards the root logger handles the SDK's lines again."""

    class Talkative(ScriptedExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            del spans
            SDK.warning(*said)
            return SpanExportResult.FAILURE

    scene = Scene(Talkative())
    with logged() as lines:
        await scene.export.open()
        scene.export.take(spans(1))
        await scene.export.close()
        SDK.warning("ours again")

    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("spans are not exported", reason),
        ("ours again", None),
    ]


async def test_an_invalid_setting_is_logged_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed header can still contain a secret."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization: canary")
    scene = Scene(InMemorySpanExporter())
    scene.export = SpanExport(OTLPSpanExporter, Registry("ibex_proxy_"), scene.clock, max_queue=10, max_batch=4)
    with logged("debug") as lines:
        await scene.export.open()
        await scene.export.close()

    assert [line["event"] for line in lines] == ["OpenTelemetry rejected a setting"]
    assert "canary" not in str(lines)


async def test_an_exporter_that_cannot_be_created_is_a_warning() -> None:
    """Spans are dropped and counted. The root logger handles the SDK's lines again."""

    def fail() -> SpanExporter:
        raise RuntimeError

    scene = Scene(InMemorySpanExporter())
    scene.export = SpanExport(fail, Registry("ibex_proxy_"), scene.clock, max_queue=10, max_batch=4)
    with logged() as lines:
        await scene.export.open()
        SDK.warning("ours")
        await scene.export.close()

    assert [line["event"] for line in lines] == ["OpenTelemetry rejected a setting. No spans are exported.", "ours"]


async def _until(condition: Any) -> None:
    waiter = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        waiter.wait(0.005)
    pytest.fail("it does not come about")
