"""Tests of declaring metrics, and of rendering them together with those of other workers."""

from __future__ import annotations

import mmap
import subprocess
import sys
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ibex.adapters.telemetry.exposition import Merge
from ibex.adapters.telemetry.registry import Registry
from ibex.adapters.telemetry.shared_memory import SEGMENT_BYTES, SharedMemorySegment


def lines(registry: Registry) -> list[str]:
    """Return the lines of the declared metrics only."""
    own = ("#", "process_", "t_worker_up", "t_event_loop_silent")
    return [line for line in registry.render()[0].decode().splitlines() if not line.startswith(own)]


def two() -> tuple[Registry, Registry]:
    """Return the registries of two workers, within this process."""
    memory = mmap.mmap(-1, 2 * SEGMENT_BYTES)
    first, second = ([SharedMemorySegment(memory, n) for n in range(2)] for _ in range(2))
    return Registry("t_", first, 0), Registry("t_", second, 1)


def test_declared_metrics_are_rendered() -> None:
    """Names have the prefix. A metric without labels appears from the start, one with labels once it has a value."""
    registry = Registry("t_")
    registry.counter("a_total", "A.")
    by = registry.counters("b_total", "B.", "x")
    registry.gauges("c", "C.", divisor=1_000).of().set(1_500)
    registry.histogram("d_seconds", "D.", (0.5,)).observe(250_000_000)
    assert lines(registry)[0] == "t_a_total 0.0"
    assert not [line for line in lines(registry) if line.startswith("t_b")]
    by.of("y").add(2)

    text, content_type = registry.render()

    assert content_type.startswith("text/plain; version=")
    assert 't_b_total{x="y"} 2.0' in lines(registry)
    assert "t_c 1.5" in lines(registry)
    assert {'t_d_seconds_bucket{le="0.5"} 1.0', "t_d_seconds_sum 0.25"} <= set(lines(registry))
    names = {family.name for family in text_string_to_metric_families(text.decode())}
    assert {"t_a", "t_b", "t_c", "t_d_seconds", "process_resident_memory_bytes"} <= names
    of_every_registry = {"t_worker_up", "t_event_loop_silent_seconds"}
    assert set(registry.families) == {"t_a_total", "t_b_total", "t_c", "t_d_seconds"} | of_every_registry


def test_every_worker_renders_the_metrics_of_all_workers() -> None:
    """Counters are summed, and process metrics have the label ``worker``."""
    registries = two()
    for number, registry in enumerate(registries):
        registry.counter("a_total", "A.").add(number + 1)
        registry.gauges("b", "B.", merge=Merge.EACH).of().set(number + 5)

    for registry in registries:
        assert lines(registry) == ["t_a_total 3.0", 't_b{worker="0"} 5.0', 't_b{worker="1"} 6.0']
        assert registry.render()[0].count(b"\nprocess_resident_memory_bytes{") == 2


def test_the_counters_of_a_dead_worker_are_kept() -> None:
    """The gauges of the dead worker are omitted."""
    memory = mmap.mmap(-1, 2 * SEGMENT_BYTES)
    registry = Registry("t_", [SharedMemorySegment(memory, n) for n in range(2)], 0)
    registry.counter("a_total", "A.").add()
    registry.gauges("b", "B.").of().set(1)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    left = SharedMemorySegment(memory, 1)
    left._head[2] = gone.pid  # noqa: SLF001 - the segment of a dead process
    left.slots_of("t_a_total", (), 1)[0] = 5
    left.slots_of("t_b", (), 1)[0] = 7

    assert lines(registry) == ["t_a_total 6.0", "t_b 1.0"]
    assert {'t_worker_up{worker="0"} 1.0', 't_worker_up{worker="1"} 0.0'} <= set(
        registry.render()[0].decode().split("\n")
    )


def test_other_workers_see_the_time_since_the_last_heartbeat() -> None:
    """A blocked worker cannot report that time itself."""
    memory = mmap.mmap(-1, 2 * SEGMENT_BYTES)
    registry = Registry("t_", [SharedMemorySegment(memory, n) for n in range(2)], 0)
    sibling = SharedMemorySegment(memory, 1)
    sibling.attach()
    assert 't_event_loop_silent_seconds{worker="1"}' not in registry.render()[0].decode()
    sibling.heartbeat_ns = time.monotonic_ns() - 5_000_000_000

    [silent] = [
        sample.value
        for family in text_string_to_metric_families(registry.render()[0].decode())
        for sample in family.samples
        if sample.name == "t_event_loop_silent_seconds" and sample.labels == {"worker": "1"}
    ]

    assert silent >= 5


def test_unused_segments_and_unknown_series_are_omitted() -> None:
    """Another worker can run another version."""
    first, _ = two()
    memory = mmap.mmap(-1, 2 * SEGMENT_BYTES)
    alone = Registry("t_", [SharedMemorySegment(memory, n) for n in range(2)], 0)
    alone.counter("a_total", "A.").add()
    other = SharedMemorySegment(memory, 1)
    other.slots_of("t_a_total", (), 2)
    other.slots_of("t_unknown", (), 1)

    assert lines(alone) == ["t_a_total 1.0"]
    assert lines(first) == []


def test_gauges_are_refreshed_before_they_are_read() -> None:
    """The worker refreshes them at each rendering, and at each heartbeat so that other workers read current values."""
    first, second = two()
    asked: list[int] = []
    gauge = first.gauges("b", "B.").of()
    second.gauges("b", "B.")

    def refresh() -> None:
        asked.append(1)
        gauge.set(len(asked))

    first.on_refresh(refresh)

    assert "t_b 1.0" in lines(first)
    assert "t_b 1.0" in lines(second)
    first.heartbeat()
    assert "t_b 2.0" in lines(second)


def test_a_second_declaration_or_a_wrong_number_of_labels_is_refused() -> None:
    """Two metrics with one name would be summed."""
    registry = Registry("t_")
    by = registry.counters("a_total", "A.", "x")

    with pytest.raises(ValueError, match="t_a_total is already declared"):
        registry.counter("a_total", "A.")
    with pytest.raises(ValueError, match="has the labels"):
        by.of("y", "z")
