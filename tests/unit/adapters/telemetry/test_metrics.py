"""Tests of the proxy's metrics, with their names and labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.exchanges import an_exchange
from harness.journal_entries import FullJournal
from harness.memory.clock import ManualClock
from ibex.adapters.telemetry.metrics import Metrics
from ibex.domain.errors import ErrorCode
from ibex.domain.identity.rate_limits import decide
from ibex.domain.record.exchange import Timings
from ibex.domain.record.journal import Sink

TIMINGS = Timings(
    auth_ns=1_000_000,
    rate_limit_ns=200_000,
    directive_ns=50_000,
    inject_ns=20_000,
    provider_ttfb_ns=250_000_000,
    overhead_ns=2_000_000,
    total_ns=502_000_000,
)


def metrics(journal: FullJournal | None = None) -> Metrics:
    """Return new metrics over a journal."""
    return Metrics(ManualClock(), journal or FullJournal())


def samples(of: Metrics) -> dict[str, float]:
    """Return every sample except buckets, as name{labels}."""
    body, _ = of.render()
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            if not sample.name.endswith(("_bucket", "_created")):
                found[f"{sample.name}{{{labels}}}".replace("{}", "")] = sample.value
    return {name.removeprefix("ibex_proxy_"): value for name, value in found.items()}


def samples_after(**changes: Any) -> dict[str, float]:
    """Return the samples after one exchange that was journaled."""
    own = metrics()
    own.exchange_settled(an_exchange(**({"timings": TIMINGS} | changes)), journaled=True)
    return samples(own)


def test_a_request_is_counted_by_route_method_and_status() -> None:
    """The histogram also has the duration in seconds. Unknown methods and routes have the labels OTHER and none."""
    own = metrics()
    own.request_ended("POST", "/v1/chat/completions", 200, 500_000_000)
    own.request_ended("BREW", "", 404, 1_000_000)

    found = samples(own)

    assert found["request_duration_seconds_count{method=POST,route=/v1/chat/completions,status=200}"] == 1
    assert found["request_duration_seconds_sum{method=POST,route=/v1/chat/completions,status=200}"] == 0.5
    assert found["request_duration_seconds_count{method=OTHER,route=none,status=404}"] == 1


def test_requests_in_flight_are_counted_until_they_end() -> None:
    """The count covers all routes."""
    own = metrics()
    own.request_began()
    own.request_began()
    own.request_ended("GET", "/health", 200, 1)

    assert samples(own)["requests_under_way"] == 1


def test_buckets_are_fine_below_twenty_milliseconds() -> None:
    """The budget for the proxy's own time covers more than five buckets."""
    own = metrics()
    own.request_ended("GET", "/health", 200, 1)
    body, _ = own.render()

    bounds = [
        float(s.labels["le"])
        for family in text_string_to_metric_families(body.decode())
        for s in family.samples
        if s.name == "ibex_proxy_request_duration_seconds_bucket"
    ]

    assert len([bound for bound in bounds if bound <= 0.02]) > 5
    assert max(bounds[:-1]) >= 120


def test_stages_and_overhead_of_a_proxied_request_are_observed() -> None:
    """Durations are in seconds. The provider's time is not a stage."""
    found = samples_after()

    assert found["stage_duration_seconds_sum{stage=auth}"] == 0.001
    assert found["stage_duration_seconds_count{stage=inject}"] == 1
    assert found["overhead_seconds_sum"] == 0.002
    assert not [name for name in found if "stage=provider" in name]


def test_stages_that_were_not_reached_are_not_observed() -> None:
    """A request that is refused at admission has no directive stage of zero seconds."""
    refused = samples_after(timings=Timings(auth_ns=5, total_ns=5), reached_provider=False, provider=None)

    assert refused["stage_duration_seconds_count{stage=directive}"] == 0
    assert refused["overhead_seconds_count"] == 0


@pytest.mark.parametrize(("streaming", "mode"), [(True, "stream"), (False, "buffered")])
def test_the_provider_is_timed_to_its_first_and_last_byte(*, streaming: bool, mode: str) -> None:
    """Streams and buffered responses have separate series."""
    found = samples_after(is_streaming=streaming, attempts=3)

    assert found[f"provider_duration_seconds_sum{{mode={mode},provider=openai}}"] == 0.5
    assert found[f"provider_first_byte_seconds_sum{{mode={mode},provider=openai}}"] == 0.25
    assert found["provider_retries_total{provider=openai}"] == 2


@pytest.mark.parametrize(
    ("code", "counted"),
    [
        (None, False),
        (ErrorCode.PROVIDER_TIMEOUT, True),
        (ErrorCode.RATE_LIMITED, True),
        (ErrorCode.CLIENT_CLOSED_REQUEST, False),
        (ErrorCode.INTERNAL_ERROR, False),
    ],
)
def test_errors_of_the_provider_are_counted_by_code(code: ErrorCode | None, *, counted: bool) -> None:
    """A client that disconnects and a bug of IBEX are not errors of the provider."""
    found = samples_after(error_code=code)

    assert (f"provider_errors_total{{code={code},provider=openai}}" in found) == counted


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        (None, "complete"),
        (ErrorCode.PROVIDER_UNAVAILABLE, "failed"),
        (ErrorCode.CLIENT_CLOSED_REQUEST, "client_closed"),
    ],
)
def test_streams_are_timed_from_their_first_byte_by_ending(code: ErrorCode | None, ending: str) -> None:
    """A stream without a first byte is not counted, and neither is a buffered response."""
    found = samples_after(is_streaming=True, error_code=code)
    assert found[f"stream_duration_seconds_count{{ending={ending}}}"] == 1
    assert found[f"stream_duration_seconds_sum{{ending={ending}}}"] == 0.25
    silent = replace(TIMINGS, provider_ttfb_ns=None)
    assert f"stream_duration_seconds_count{{ending={ending}}}" not in samples_after(
        is_streaming=True, error_code=code, timings=silent
    )
    assert f"stream_duration_seconds_count{{ending={ending}}}" not in samples_after(is_streaming=False, error_code=code)


@pytest.mark.parametrize(
    ("reached", "streaming", "phase"),
    [(False, False, "before_provider"), (True, False, "buffered"), (True, True, "stream")],
)
def test_disconnected_clients_are_counted_by_phase(*, reached: bool, streaming: bool, phase: str) -> None:
    """A client disconnects before the call to the provider, while it waits for the response, or within a stream."""
    found = samples_after(error_code=ErrorCode.CLIENT_CLOSED_REQUEST, reached_provider=reached, is_streaming=streaming)

    assert found[f"client_disconnects_total{{phase={phase}}}"] == 1


def test_rate_limit_decisions_are_counted() -> None:
    """Only IBEX's own decisions count, not the provider's, for requests with and without an exchange."""
    own = metrics()
    now = ManualClock().now()
    own.exchange_settled(an_exchange(timings=TIMINGS), journaled=True)
    own.exchange_settled(an_exchange(timings=TIMINGS, error_code=ErrorCode.RATE_LIMITED), journaled=True)
    limited = an_exchange(
        timings=Timings(rate_limit_ns=1), error_code=ErrorCode.RATE_LIMITED, reached_provider=False, provider=None
    )
    own.exchange_settled(limited, journaled=True)
    own.exchange_settled(an_exchange(timings=Timings(), reached_provider=False), journaled=True)
    own.admitted(None, None, decide(count=2, limit=1, now=now))
    own.admitted(None, None, decide(count=1, limit=1, now=now))

    found = samples(own)

    assert found["rate_limit_decisions_total{decision=allowed}"] == 3
    assert found["rate_limit_decisions_total{decision=limited}"] == 2


def test_exchanges_that_were_not_journaled_are_counted() -> None:
    """A failed authentication does not count, because it is never recorded."""
    own = metrics()
    own.exchange_settled(an_exchange(timings=TIMINGS), journaled=False)
    own.exchange_settled(an_exchange(timings=TIMINGS, caller=None, reached_provider=False), journaled=False)

    found = samples(own)
    assert found["journal_losses_total{sink=traces}"] == 1
    assert found["journal_losses_total{sink=checkpoints}"] == 1


def test_a_refused_request_that_was_not_journaled_loses_only_its_trace() -> None:
    """A request that did not reach the provider has no checkpoint to lose."""
    own = metrics()
    own.exchange_settled(an_exchange(timings=TIMINGS, reached_provider=False), journaled=False)

    found = samples(own)
    assert found["journal_losses_total{sink=traces}"] == 1
    assert found["journal_losses_total{sink=checkpoints}"] == 0


def test_sinks_and_the_journal_are_measured() -> None:
    """The metrics cover batches and their durations, rows, failures, the last delivery, and pending exchanges."""
    journal = FullJournal({Sink.TRACES: 7})
    own = metrics(journal)
    own.delivered(Sink.TRACES, 1_000, 30_000_000)
    own.delivered(Sink.TRACES, 5, 10_000_000)
    own.sink_failed(Sink.CHECKPOINTS)
    own.dead_lettered(Sink.TRACES)
    journal.depths[Sink.TRACES] = 9

    found = samples(own)

    assert found["sink_batch_duration_seconds_count{sink=traces}"] == 2
    assert found["sink_batch_duration_seconds_sum{sink=traces}"] == pytest.approx(0.04)
    assert found["sink_rows_total{sink=traces}"] == 1_005
    assert found["sink_failures_total{sink=checkpoints}"] == 1
    assert found["sink_last_delivery_timestamp_seconds{sink=traces}"] == ManualClock().now().timestamp()
    assert found["journal_depth_exchanges{sink=traces}"] == 9
    assert found["journal_depth_exchanges{sink=checkpoints}"] == 0
    assert found["sink_dead_letters_total{sink=traces}"] == 1


def test_stages_and_internal_errors_of_other_routes_are_counted() -> None:
    """Stages that the request did not reach are not observed."""
    own = metrics()
    own.admitted(1_000, None, None)
    own.request_failed()

    found = samples(own)

    assert found["stage_duration_seconds_count{stage=auth}"] == 1
    assert found["stage_duration_seconds_count{stage=rate_limit}"] == 0
    assert found["internal_errors_total"] == 1


def test_names_have_a_prefix_and_process_metrics_are_included() -> None:
    """Every name begins with ``ibex_proxy_``. Two instances in one process are independent."""
    metrics()
    body, content_type = metrics().render()

    names = {family.name for family in text_string_to_metric_families(body.decode())}

    assert content_type.startswith("text/plain")
    assert {name for name in names if not name.startswith("ibex_proxy_")} <= {
        name for name in names if name.startswith("process_")
    }
    assert "process_resident_memory_bytes" in names


def test_no_client_can_create_a_time_series() -> None:
    """Model, session and organization are not labels."""
    found = samples_after(model="gpt-canary")

    assert not [name for name in found if "canary" in name]
    labels = {label.partition("=")[0] for name in found if "{" in name for label in name.split("{")[1][:-1].split(",")}
    assert labels <= {
        "route",
        "method",
        "status",
        "stage",
        "decision",
        "provider",
        "mode",
        "code",
        "ending",
        "phase",
        "sink",
        "worker",
    }
