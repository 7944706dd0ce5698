"""The verdict of `make bench-gate`: pairs, medians, limits, and the output of perf."""

from __future__ import annotations

import math

import pytest
from benchmarks.regression.comparison import Comparison, baseline_first, exit_code, summary_of, table_of
from benchmarks.regression.counters import parse_perf
from benchmarks.regression.measure import FULL, with_share

SAME = Comparison("chat: calls", "calls", (100.0, 200.0, 300.0), (100.0, 200.0, 300.0))
SLOWER = Comparison("chat: CPU time", "µs", (100.0, 200.0, 300.0), (120.0, 250.0, 300.0))
LATENCY = Comparison("chat: latency p99", "ms", (1.0,), (9.0,), limit=None)


def test_the_ratio_is_the_median_of_the_ratios_of_pairs() -> None:
    """A machine that slows down during a pair slows both measurements, so the ratio of the pair stays the same."""
    slowed = Comparison("x", "µs", (100.0, 900.0, 110.0), (102.0, 918.0, 112.2))

    assert slowed.ratios == pytest.approx([1.02, 1.02, 1.02])
    assert slowed.ratio == pytest.approx(1.02)
    assert SLOWER.ratio == pytest.approx(1.2)


def test_one_disturbed_pair_does_not_change_the_verdict() -> None:
    """The median ignores an outlier in either direction."""
    assert Comparison("x", "µs", (100.0,) * 3, (101.0, 400.0, 99.0)).passed
    assert not Comparison("x", "µs", (100.0,) * 3, (120.0, 20.0, 120.0)).passed


def test_every_second_pair_begins_with_the_baseline() -> None:
    """Each tree is measured first equally often, so that a warm machine favours neither."""
    assert [baseline_first(pair) for pair in range(4)] == [True, False, True, False]


@pytest.mark.parametrize(("ratio", "passed"), [(0.5, True), (1.0, True), (1.1, True), (1.1001, False)])
def test_a_ratio_above_the_limit_of_1_1_fails(ratio: float, *, passed: bool) -> None:
    """A ratio equal to the limit passes, and so does an improvement."""
    one = Comparison("x", "calls", (1.0,), (ratio,))

    assert one.passed is passed
    assert exit_code([SAME, one]) == (0 if passed else 1)


def test_missing_measurements_do_not_pass() -> None:
    """One pair with a baseline of zero makes the ratio NaN. Without pairs or figures the gate fails."""
    nothing = Comparison("x", "calls", (0.0, 1.0, 1.0), (1.0, 1.0, 1.0))

    assert math.isnan(nothing.ratio)
    assert not nothing.passed
    assert not Comparison("x", "calls", (), ()).passed
    assert exit_code([]) == 1
    assert summary_of([]) == "bench-gate: FAILED: nothing was measured"


def test_a_measurement_without_its_partner_raises() -> None:
    """Both trees must have the same number of measurements; anything else is a bug of the gate."""
    with pytest.raises(ValueError, match="shorter"):
        _ = Comparison("x", "calls", (1.0, 2.0), (1.0,)).ratio


def test_latencies_do_not_affect_the_verdict() -> None:
    """A higher latency passes. A gate with latencies alone fails, because it has judged nothing."""
    assert exit_code([SAME, LATENCY]) == 0
    assert exit_code([LATENCY]) == 1


def test_a_failure_names_the_figure_and_both_amounts() -> None:
    """The summary has one line for each figure above its limit, and none for the others."""
    assert summary_of([SAME, SLOWER, LATENCY]) == (
        "bench-gate: FAILED: chat: CPU time: 1.200 times the baseline (250 µs instead of 200), the limit is 1.10"
    )
    assert summary_of([SAME, LATENCY]) == "bench-gate: passed"


def test_the_table_has_a_row_for_each_figure() -> None:
    """A row shows the medians of both trees, and the deciding, the lowest and the highest ratio."""
    head, same, slower, latency = table_of([SAME, SLOWER, LATENCY]).splitlines()

    assert head.split() == ["per", "request", "baseline", "this", "tree", "ratio", "lowest", "highest", "limit"]
    assert " ".join(same.split()) == "pass chat: calls, calls 200 200 1.000 1.000 1.000 1.10"
    assert " ".join(slower.split()) == "FAIL chat: CPU time, µs 200 250 1.200 1.000 1.250 1.10"
    assert " ".join(latency.split()) == "chat: latency p99, ms 1 9 9.000 9.000 9.000 not judged"


@pytest.mark.parametrize(
    ("said", "amount"),
    [
        ("1234567,,instructions,2001,100.00,,\n", 1_234_567),
        ("987,,instructions:u,2001,100.00,0.91,insn per cycle\n", 987),
        ("Events disabled\nEvents enabled\n1.78,msec,task-clock,1781642,100.00,0.017,CPUs utilized\n", 1.78),
        ("<not supported>,,instructions,0,100.00,,\n", None),
        ("<not counted>,,instructions,0,100.00,,\n", None),
        ("Error: No permission to enable instructions event.\n", None),
        ("", None),
    ],
    ids=["all", "without the kernel", "with orders", "not supported", "not counted", "not permitted", "no perf"],
)
def test_the_count_is_read_from_the_output_of_perf(said: str, amount: float | None) -> None:
    """The result is None if perf counted nothing, for example on a machine without hardware counters."""
    assert parse_perf(said) == amount


def test_a_part_of_a_plan_keeps_every_scenario() -> None:
    """Each scenario sends at least one request."""
    part = with_share(FULL, 0.0001, 1)

    assert [one.name for one in part.scenarios] == [one.name for one in FULL.scenarios]
    assert [one.requests for one in part.scenarios] == [1, 1]
    assert part.pairs == 1
