"""Parsing, verdicts and tables of ``make bench-attacks``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.attacks.catalogue import ATTACKS, BY_NAME
from benchmarks.attacks.laboratory import listening_in
from benchmarks.attacks.observing import parse_metrics, total, worst_bucket
from benchmarks.attacks.options import ROOT, listing, read_options
from benchmarks.attacks.report import counts, number, releases, tables
from benchmarks.attacks.tally import Tally, first_close_s
from benchmarks.attacks.tokens import guess, id_of
from benchmarks.attacks.verdict import percentile, summary, withstood
from benchmarks.attacks.victim import MIX, Plan, Sample
from benchmarks.attacks.wire import Answer, AnswerParser

from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from collections.abc import Sequence

_WITH_LENGTH = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}"
_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n"
_EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def _samples(outcomes: Sequence[str], ms: float = 1.0) -> list[Sample]:
    return [Sample("buffered", outcome, ms) for outcome in outcomes]


def _result(name: str, *, failed: str = "ok", holds: bool = True) -> dict[str, Any]:
    before, during = summary(_samples(["ok"] * 4)), summary(_samples(["ok", "ok", "ok", failed], 1.5))
    tally = Tally()
    tally.open()
    tally.answered(Answer(401, 500))
    rate = dict.fromkeys(
        ("grpc_calls", "redis_commands", "postgres_transactions", "journal_rows", "clickhouse_rows", "attacker_rows")
    )
    rates = {**rate, "workers_cores": 0.5, "auth_cores": 0.1}
    peaks = {"descriptors": 40, "auth_descriptors": 20, "memory_mb": 200.0, "in_flight": 7.0, "metrics_unanswered": 0}
    return {
        "name": name,
        "holds": holds,
        "victim": {"before": before, "during": during},
        "newcomers": {"served": 5 if failed == "ok" else 3, "tried": 5},
        "withstood": withstood(before, during),
        "attacker": {**tally.told(), "failed": None if failed == "ok" else "ValueError()"},
        "watched_s": 30.1,
        "peaks": peaks,
        "memory_before_mb": 190.0,
        "descriptors_after": 33,
        "rates": {"before": rates, "during": rates},
        "loop_lag": {"proxy_s": 0.1, "auth_s": None},
        "healthy_after_s": None,
        "notes": ["a process took 30 s to stop"],
    }


_ABOUT = {
    "date": "2026-01-02", "commit": "abcdef0", "cores": 2, "load_before": 0.5, "seconds": 30.0, "before": 10.0,
    "rate": 40.0, "auth_timeout": 0.05, "nice": 10,
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_responses_are_parsed_from_reads_of_any_size(size: int) -> None:
    """The responses have a length, chunks (one resembles the last chunk), or no body."""
    parser, found = AnswerParser(), []
    received = (_WITH_LENGTH + _CHUNKED + _EMPTY) * 2
    for at in range(0, len(received), size):
        found += parser.feed(received[at : at + size])

    assert (
        found
        == [
            Answer(401, len(_WITH_LENGTH)),
            Answer(200, len(_CHUNKED)),
            Answer(204, len(_EMPTY)),
        ]
        * 2
    )


def test_an_interim_response_does_not_count_as_an_answer() -> None:
    """A client that waits for 100 Continue has not been answered."""
    assert AnswerParser().feed(b"HTTP/1.1 100 Continue\r\n\r\n") == []


def test_a_guessed_token_is_well_formed() -> None:
    """A malformed token would be refused before it reaches the attacked code."""
    token_id = "01a22971-199e-7ef9-84ea-f9ac73450b7a"

    parsed = PersonalAccessToken.parse(guess(token_id))

    assert parsed is not None
    assert str(parsed.token_id) == token_id == id_of(guess(token_id))


def test_a_percentile_is_one_of_the_measured_values() -> None:
    """The nearest rank decides. Without values the result is NaN."""
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile(list(range(1, 101)), 99) == 99
    assert math.isnan(percentile([], 99))


def test_failures_are_counted_by_status() -> None:
    """The summary counts them over all requests and for each kind of request."""
    told = summary([*_samples(["ok", "503", "no answer"]), Sample("miss", "503", 9.0)])

    assert (told["requests"], told["failed"], told["failures"]) == (4, 3, {"503": 2, "no answer": 1})
    assert told["kinds"]["miss"]["failures"] == {"503": 1}
    assert told["p99_ms"] == 9.0


@pytest.mark.parametrize(
    ("during", "verdict"),
    [
        (_samples(["ok"] * 3, 2.0), True),
        (_samples(["ok"] * 3, 2.1), False),
        (_samples(["ok", "ok", "503"]), False),
        ([], False),
    ],
)
def test_an_attack_is_withstood_without_failures_and_with_at_most_twice_the_p99(
    during: list[Sample], verdict: object
) -> None:
    """An attack without any measurement is not withstood."""
    assert withstood(summary(_samples(["ok"] * 3)), summary(during)) is verdict


def test_the_tally_reports_when_the_server_closed_connections() -> None:
    """A minimum duration excludes connections that were refused at once."""
    tally = Tally()
    for status, held_s in ((503, 0.1), (503, 0.2), (0, 12.5)):
        tally.closed_by_server(status, held_s)
    told = tally.told()

    assert told["closed"]["503"] == {"closed": 2, "first_s": 0.1, "median_s": 0.15, "last_s": 0.2}
    assert first_close_s(told) == 0.1
    assert first_close_s(told, least_s=1.0) == 12.5
    assert first_close_s(Tally().told()) is None
    assert releases(told["closed"]) == "2 after 0.15 (0.1 to 0.2) 503, 1 after 12.5 (12.5 to 12.5) unanswered"


def test_metrics_are_summed_over_labels() -> None:
    """The total of a missing metric is None, not zero."""
    metrics = parse_metrics('# HELP x y\nx_total{sink="a"} 2\nx_total{sink="b"} 3.5\nup 1\n')

    assert total(metrics, "x_total") == 5.5
    assert total(metrics, "x_total", 'sink="a"') == 2
    assert total(metrics, "y_total") is None


def test_the_worst_bucket_is_the_highest_one_with_new_observations() -> None:
    """Buckets are cumulative, and each worker has its own."""
    name = 'lag_bucket{le="%s",worker="%d"}'
    before = parse_metrics("\n".join(f"{name % (le, 0)} 5" for le in ("0.1", "1.0", "+Inf")))
    lines = [f"{name % ('0.1', 0)} 6", f"{name % ('1.0', 0)} 7", f"{name % ('+Inf', 0)} 7", f"{name % ('+Inf', 1)} 0"]
    after = parse_metrics("\n".join(lines))

    assert worst_bucket(before, after, "lag") == 1.0
    assert worst_bucket(after, after, "lag") is None


def test_the_ports_of_auth_are_read_from_its_log_line() -> None:
    """One line contains both ports. Any other line raises an error."""
    line = "serving gRPC on port 43151, health and metrics on http://127.0.0.1:42809"

    assert listening_in(line) == (43151, "http://127.0.0.1:42809")
    with pytest.raises(ValueError, match="where it listens"):
        listening_in("starting")


def test_every_attack_has_a_unique_name_and_a_description() -> None:
    """The option ``--only`` accepts these names."""
    assert len(BY_NAME) == len(ATTACKS)
    assert all(attack.what and attack.name in listing() for attack in ATTACKS)
    assert {attack.descriptors for attack in ATTACKS if attack.name.endswith("-1024")} == {1024}


def test_command_line_options_override_the_defaults() -> None:
    """The default is all attacks, for 30 s, on this checkout. An unknown attack is an error."""
    assert read_options([]).only == tuple(BY_NAME)
    assert (read_options([]).seconds, read_options([]).source) == (30.0, ROOT)
    assert read_options(["--only", "idle-1024", "--seconds", "5"]).only == ("idle-1024",)
    with pytest.raises(SystemExit):
        read_options(["--only", "nothing"])


def test_a_plan_is_unchanged_after_a_round_trip_through_json() -> None:
    """The victim process reads the plan from one line."""
    plan = Plan(1, "a", ("b", "c"), 40.0)

    assert Plan.from_json(plan.to_json()) == plan
    assert "\n" not in plan.to_json()
    assert plan.mix == MIX


def test_the_report_shows_failures_and_missing_measurements() -> None:
    """A dash marks a missing value. An attack that could not run is listed with its error."""
    results = [_result("good", holds=False), _result("bad", failed="503"), {"name": "broken", "error": "OSError: x"}]

    told = tables(_ABOUT, results)

    victim = [line for line in told.splitlines() if line.startswith(("| good |", "| bad |"))]
    assert victim[0].endswith("| 1.5 | 4 | 0 | – | – | yes |")  # noqa: RUF001 - as in the table
    assert victim[1].endswith("| 1.5 | 4 | 1 | 1 × 503 | – | **no** |")  # noqa: RUF001 - as in the table
    assert "none within 30.1 s" in told
    assert "- broken: not measured: OSError: x" in told
    assert "- good: a process took 30 s to stop" in told
    assert "- bad: auth served 3 of 5 new connections" in told
    assert "- bad: the attack ended early: ValueError()" in told
    assert not any(note in told for note in ("- good: auth served", "- good: the attack"))


def test_numbers_have_three_digits_and_counts_are_sorted_by_frequency() -> None:
    """A dash stands for a missing value."""
    assert [number(value) for value in (None, 0.1234, 12.34, 1234.5)] == ["–", "0.123", "12.3", "1234"]  # noqa: RUF001 - as in the table
    assert counts({"401": 1, "503": 9}) == "9 × 503, 1 × 401"  # noqa: RUF001 - as in the table
    assert counts({}) == "–"  # noqa: RUF001 - as in the table
