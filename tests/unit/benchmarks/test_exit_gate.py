"""The verdicts of the exit gate, its table and its exit code."""

from __future__ import annotations

import math
from dataclasses import replace
from uuid import UUID

import pytest
from benchmarks.gate.chat import judge_overhead, judge_received
from benchmarks.gate.programs import judge_tests
from benchmarks.gate.record import judge_record, judge_traces
from benchmarks.gate.revocation import judge_revocations
from benchmarks.gate.scene import others_in
from benchmarks.gate.verdict import at_most, broken, every_one, exit_code, table_of

from harness.cpu_time import CpuUse
from harness.request_load import Answer, Load
from harness.revocation import Outcome

MS = 1_000_000
ONE, TWO = UUID(int=1), UUID(int=2)
GOOD = at_most("quick", 4.2, "20 ms")
BAD = at_most("slow", 20.5, "20 ms", note="p50 1 ms")


def answered(due_ms: int, took_ms: int, provider_ms: int) -> Answer:
    """Return an answer that took so long, and the provider of it so long."""
    return Answer(due_ms * MS, due_ms * MS, (due_ms + took_ms) * MS, 200, provider_ms * MS, "")


def load(overhead_ms: int, count: int = 400, failed: int = 0) -> Load:
    """Return a second of requests that all had this overhead: 100 of them at a time, if there are 400."""
    return Load([answered(number, 250, 250 - overhead_ms) for number in range(count)], failed)


@pytest.mark.parametrize(("lines", "code"), [([GOOD], 0), ([GOOD, BAD], 1), ([BAD], 1), ([], 1)])
def test_one_line_over_its_limit_fails_the_gate(lines: list[object], code: int) -> None:
    """A gate without any measurement fails too."""
    assert exit_code(lines) == code  # type: ignore[arg-type]


def test_a_figure_equal_to_its_limit_passes() -> None:
    """NaN does not pass, nor does a good figure with a flaw."""
    assert at_most("x", 20.0, "20 ms").passed
    assert not at_most("x", math.nan, "20 ms").passed
    flawed = at_most("x", 1.0, "20 ms", flaws=["3 failed"], note="p50 1 ms")
    assert (flawed.passed, flawed.note) == (False, "3 failed; p50 1 ms")


def test_every_one_of_zero_does_not_pass() -> None:
    """At least one item is needed, and all must be good."""
    assert every_one("x", 3, 3).passed
    assert not every_one("x", 2, 3).passed
    assert not every_one("x", 0, 0).passed


def test_a_failed_measurement_does_not_pass() -> None:
    """The note contains the reason in one line."""
    line = broken("x", RuntimeError("a server\ndid not start"))

    assert (line.passed, line.note) == (False, "RuntimeError: did not start")


def test_the_table_is_aligned_and_coloured_only_on_request() -> None:
    """The last line counts the failures."""
    plain = table_of([GOOD, BAD], colour=False).splitlines()

    assert [row[:4] for row in plain[1:3]] == ["pass", "FAIL"]
    assert plain[1].index("≤") == plain[2].index("≤") == plain[0].index("limit")
    assert plain[-1] == "exit-gate: 1 of 2 failed"
    assert table_of([GOOD], colour=False).endswith("all 1 passed")
    coloured = table_of([GOOD, BAD], colour=True)
    assert "\033[" in coloured
    assert "\033[" not in "".join(plain)


@pytest.mark.parametrize(
    ("through", "passed"),
    [
        (load(5), True),
        (load(21), False),
        (load(5, failed=1), False),
        (load(5, count=100), False),
        (Load([], failed=400), False),
    ],
    ids=["quick", "slow", "one failed", "too few in flight", "no answer at all"],
)
def test_overhead_passes_only_with_a_hundred_requests_in_flight_and_no_failures(through: Load, *, passed: bool) -> None:
    """With fewer requests in flight, or without the failed ones, the figure would not be comparable."""
    assert judge_overhead(through, load(1), seconds=1.0).passed is passed


def test_processor_use_by_other_processes_is_reported() -> None:
    """It is the machine's use minus that of the gate's own processes."""
    use = CpuUse({"gate": 6.0, "servers": 1.0}, wall_s=10.0, machine_s=8.0)

    assert others_in(use) == ""
    assert others_in(replace(use, machine_s=12.0)).startswith("; others used 0.5 of ")


def test_a_request_without_its_directive_fails_the_check() -> None:
    """The check also fails if the provider received nothing."""
    assert judge_received({"system: Be brief.": 7}, "system: Be brief.").passed
    assert not judge_received({"system: Be brief.": 6, "user: hi": 1}, "system: Be brief.").passed
    assert not judge_received({}, "system: Be brief.").passed


def test_a_late_or_missing_trace_fails_the_check() -> None:
    """Each trace is timed from its own response, in whatever order the responses arrived."""
    answers = [answered(100, 250, 250), answered(0, 250, 250)]
    in_time, late = 250 * MS + 400 * MS, 350 * MS + 501 * MS

    assert judge_traces([ONE, TWO], answers, {ONE: in_time, TWO: late - 2 * MS}).passed
    assert not judge_traces([ONE, TWO], answers, {ONE: in_time, TWO: late}).passed
    assert not judge_traces([ONE, TWO], answers, {ONE: in_time}).passed


def test_a_missing_duplicate_or_foreign_record_fails_the_check() -> None:
    """The number of records alone would not reveal a duplicate or foreign one."""
    assert judge_record("x", [ONE, TWO], {ONE}, 2).passed
    assert not judge_record("x", [ONE], {ONE}, 2).passed
    assert not judge_record("x", [ONE, TWO, TWO], {ONE}, 2).passed
    assert not judge_record("x", [ONE, TWO], {UUID(int=3)}, 2).passed


@pytest.mark.parametrize(
    ("outcome", "passed"),
    [
        (Outcome(4.9, {200: 9}, {401: 9}), True),
        (Outcome(5.1, {200: 9}, {401: 9}), False),
        (Outcome(1.0, {200: 9, 401: 1}, {401: 9}), False),
        (Outcome(1.0, {200: 9}, {503: 9}), False),
    ],
    ids=["in time", "late", "a live one refused", "never refused"],
)
def test_a_revocation_must_be_in_time_and_affect_no_live_token(outcome: Outcome, *, passed: bool) -> None:
    """The worst of several outcomes decides."""
    good = Outcome(0.0, {200: 9}, {401: 9})

    assert judge_revocations("x", [good, outcome]).passed is passed


@pytest.mark.parametrize(
    ("code", "last", "passed"),
    [
        (0, "21 passed in 20.10s", True),
        (1, "1 failed, 20 passed in 20.10s", False),
        (0, "3 skipped in 0.10s", False),
        (0, "20 passed, 1 skipped in 0.10s", False),
        (2, "1 error in 0.10s", False),
        (5, "no tests ran in 0.10s", False),
    ],
)
def test_a_test_run_passes_only_if_every_test_ran_and_passed(code: int, last: str, *, passed: bool) -> None:
    """A skipped row of the matrix counts as untested."""
    assert judge_tests("x", code, f"...\n{last}\n").passed is passed
