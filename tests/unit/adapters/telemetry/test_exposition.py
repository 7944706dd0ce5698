"""Tests of Prometheus' text format for several processes."""

from __future__ import annotations

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from ibex.adapters.telemetry.exposition import Family, Merge, Merged, process_lines


def text_of(family: Family, *series: tuple[tuple[str, ...], list[int], str]) -> list[str]:
    """Return the lines after HELP and TYPE."""
    merged = Merged(family)
    for one in series:
        merged.add(*one)
    head, kind, *lines = "".join(merged.lines()).splitlines()
    assert head == f"# HELP {family.name} {family.documentation}"
    assert kind == f"# TYPE {family.name} {family.kind}"
    return lines


def test_counters_with_the_same_labels_are_summed() -> None:
    """The sum covers all processes."""
    family = Family("x_total", "Things.", "counter", ("a",))

    lines = text_of(family, (("p",), [2], "0"), (("q",), [1], "0"), (("p",), [3], "1"))

    assert lines == ['x_total{a="p"} 5.0', 'x_total{a="q"} 1.0']


def test_gauges_are_merged_as_declared() -> None:
    """A gauge declares sum, maximum, minimum, or a separate value for each process."""
    both = (((), [2_500_000], "0"), ((), [3_000_000], "1"))

    assert text_of(Family("s", "S.", "gauge", divisor=1_000_000), *both) == ["s 5.5"]
    assert text_of(Family("m", "M.", "gauge", merge=Merge.MAX), *both) == ["m 3000000.0"]
    assert text_of(Family("m", "M.", "gauge", merge=Merge.MIN), *both) == ["m 2500000.0"]
    assert text_of(Family("e", "E.", "gauge", merge=Merge.EACH), *both) == [
        'e{worker="0"} 2500000.0',
        'e{worker="1"} 3000000.0',
    ]


def test_buckets_are_cumulative() -> None:
    """Bucket bounds and the sum use the unit in the metric's name."""
    family = Family("d_seconds", "D.", "histogram", ("a",), 1_000_000_000, (10_000_000, 20_000_000))

    lines = text_of(family, (("p",), [40_000_000, 1, 2, 1], "0"), (("p",), [10_000_000, 1, 0, 0], "1"))

    assert lines == [
        'd_seconds_bucket{a="p",le="0.01"} 2.0',
        'd_seconds_bucket{a="p",le="0.02"} 4.0',
        'd_seconds_bucket{a="p",le="+Inf"} 5.0',
        'd_seconds_count{a="p"} 5.0',
        'd_seconds_sum{a="p"} 0.05',
    ]


def test_a_metric_without_series_has_help_and_type() -> None:
    """A histogram without labels has no empty braces."""
    assert text_of(Family("x_total", "Things.", "counter", ("a",))) == []
    bare = text_of(Family("d", "D.", "histogram", (), 1, (1,)), ((), [0, 0, 0], "0"))
    assert bare == ['d_bucket{le="1.0"} 0.0', 'd_bucket{le="+Inf"} 0.0', "d_count 0.0", "d_sum 0.0"]


def test_label_values_are_escaped() -> None:
    """Quotes, backslashes and line ends are read back unchanged."""
    odd = 'a"b\\n\\c\nd'
    merged = Merged(Family("x_total", "Things.", "counter", ("a",)))
    merged.add((odd,), [1], "0")

    (family,) = text_string_to_metric_families("".join(merged.lines()))

    assert family.samples[0].labels == {"a": odd}


def test_process_metrics_have_the_worker_as_label() -> None:
    """The series of one metric are adjacent, as the format requires."""

    def said(size: int) -> list[GaugeMetricFamily | CounterMetricFamily]:
        return [GaugeMetricFamily("size_bytes", "S.", size), CounterMetricFamily("cpu_seconds_total", "C.", 0.5)]

    lines = list(process_lines([("0", said(1)), ("1", said(2))]))

    assert "".join(lines) == (
        "# HELP size_bytes S.\n# TYPE size_bytes gauge\n"
        'size_bytes{worker="0"} 1\nsize_bytes{worker="1"} 2\n'
        "# HELP cpu_seconds_total C.\n# TYPE cpu_seconds_total counter\n"
        'cpu_seconds_total{worker="0"} 0.5\ncpu_seconds_total{worker="1"} 0.5\n'
    )
