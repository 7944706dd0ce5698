"""A proxy and an auth service that have just started export every metric and label value that the alert rules use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from harness.openai import ScriptedOpenAI
from harness.production import PATIENCE, SERVICE_TOKEN, START_TIMEOUT_S, Production
from ibex.domain.errors import ErrorCode
from ibex.domain.freshness.kinds import Kind
from ibex.domain.identity.guessed_secrets import Share
from ibex.domain.proxying.capacity import Limit
from ibex.domain.record.journal import Sink

if TYPE_CHECKING:
    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer

pytestmark = pytest.mark.integration

RULES = Path(__file__).parents[2] / "deploy" / "rules.yaml"
NAME = re.compile(r"\b(ibex_(?:proxy|auth)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
SINKS = {("sink", sink.value) for sink in Sink}
OUTCOMES = {("outcome", outcome) for outcome in ("answered", "failed", "passed_over")}
FAULTS = {("code", code) for code in ("PROVIDER_UNAVAILABLE", "PROVIDER_TIMEOUT", "RATE_LIMITED", "OVERLOADED")}
ENUMERATIONS = {
    "ibex_proxy_journal_losses_total": SINKS,
    "ibex_proxy_sink_dead_letters_total": SINKS,
    "ibex_proxy_sink_rows_total": SINKS,
    "ibex_proxy_journal_depth_exchanges": SINKS,
    "ibex_proxy_sink_lag_seconds": SINKS,
    "ibex_proxy_auth_calls_failed_total": {("kind", kind.value) for kind in (Kind.TOKENS, Kind.AGENTS)},
    "ibex_proxy_auth_calls_refused_total": {("share", share.value) for share in Share},
    "ibex_proxy_capacity_refusals_total": {("limit", limit.value) for limit in Limit},
    "ibex_proxy_cache_lookups_total": {("kind", "directives"), ("outcome", "stale")},
    "ibex_proxy_redis_questions_total": OUTCOMES,
    "ibex_auth_redis_questions_total": OUTCOMES,
    "ibex_proxy_provider_errors_total": {("provider", "openai"), *FAULTS},
    "ibex_proxy_provider_duration_seconds_count": {("mode", "buffered"), ("mode", "stream")},
    "ibex_proxy_request_duration_seconds_count": {("method", "POST"), ("status", "503")},
    "ibex_proxy_file_reloads_total": {("variable", "IBEX_AUTH_SERVICE_TOKEN_FILE"), ("outcome", "refused")},
    "ibex_auth_file_reloads_total": {("variable", "IBEX_AUTH_SERVICE_TOKEN_FILE"), ("outcome", "refused")},
}
"""The labels of the metrics in the rules, each with its values."""
UNLABELLED = {"le", "worker"}
FIRST_LOSSES = (
    "ibex_proxy_journal_losses_total",
    "ibex_proxy_journal_dropped_traces_total",
    "ibex_proxy_sink_dead_letters_total",
    "ibex_proxy_cache_entries_unverified_total",
    "ibex_proxy_internal_errors_total",
    "ibex_auth_internal_errors_total",
    "ibex_proxy_log_lines_dropped_total",
    "ibex_auth_log_lines_dropped_total",
)

Sample = tuple[dict[str, str], float]


@pytest.fixture(scope="module")
def exported(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[Sample]]:
    """The samples of a fresh proxy and a fresh auth service, by name."""
    folder = tmp_path_factory.mktemp("fresh")
    with ScriptedOpenAI.in_thread() as provider:
        keys = {"OPENAI_API_KEY": "sk-scripted", "OPENAI_BASE_URL": provider.base_url, **PATIENCE}
        token = folder / "service-token"  # a secret in a file, as in production
        token.write_text(SERVICE_TOKEN)
        keys |= {"IBEX_AUTH_SERVICE_TOKEN": "", "IBEX_AUTH_SERVICE_TOKEN_FILE": str(token)}
        production = Production.over(module_postgres, module_clickhouse, module_redis.url, folder, **keys)
        try:
            line = production.start_auth().wait_for_line("health and metrics on", START_TIMEOUT_S)
            auth = str(json.loads(line)["event"]).rpartition(" on ")[2]
            found: dict[str, list[Sample]] = {}
            for address in (production.start_proxy(), auth):
                url = address if address.startswith("http") else f"http://{address}"
                for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").raise_for_status().text):
                    for sample in family.samples:
                        found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
            return found
        finally:
            production.stop()


def selectors() -> list[tuple[str, str]]:
    """Return the metrics that the rules use, each with the matchers of its selector."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    return sorted({(found[1], found[2] or "") for rule in rules for found in NAME.finditer(rule["expr"])})


def matches(labels: dict[str, str], matchers: str) -> bool:
    """Return whether labels match a selector."""
    for label, operator, value in MATCHER.findall(matchers):
        own = labels.get(label, "")
        is_match = re.fullmatch(value, own) is not None if operator == "=~" else own == value
        if is_match is (operator == "!="):
            return False
    return True


@pytest.mark.parametrize(("name", "matchers"), selectors(), ids=lambda value: value)
def test_each_series_of_a_rule_is_exported_from_the_start(
    exported: dict[str, list[Sample]], name: str, matchers: str
) -> None:
    """Each selector matches a series, also with each alternative of a regular expression."""
    samples = [labels for labels, _ in exported.get(name, [])]
    assert any(matches(labels, matchers) for labels in samples)
    for label, operator, value in MATCHER.findall(matchers):
        if operator == "=~":
            assert set(value.split("|")) <= {labels.get(label) for labels in samples}


@pytest.mark.parametrize("name", sorted({name for name, _ in selectors()}))
def test_each_label_value_of_a_rules_metric_is_exported_from_the_start(
    exported: dict[str, list[Sample]], name: str
) -> None:
    """A series that first appears with its first event would not count as increased."""
    pairs = {pair for labels, _ in exported[name] for pair in labels.items() if pair[0] not in UNLABELLED}
    assert pairs >= ENUMERATIONS.get(name, set())
    if pairs:
        assert name in ENUMERATIONS, "the values of its labels belong here"


@pytest.mark.parametrize("name", FIRST_LOSSES)
def test_each_counter_of_a_loss_starts_at_zero(exported: dict[str, list[Sample]], name: str) -> None:
    """Its first increase is then from 0 to 1."""
    assert {value for _, value in exported[name]} == {0.0}


def test_the_codes_of_provider_errors_are_those_that_clients_get() -> None:
    """The metric uses the error codes of IBEX."""
    assert {code for _, code in FAULTS} <= {code.value for code in ErrorCode}
