"""The settings of ClickHouse, a part of ``Settings``."""

from __future__ import annotations

from dataclasses import dataclass

from ibex.entrypoints.http_settings import HttpSettings
from ibex.entrypoints.setting_values import Secret, Variable, cluster_name, int_between, secret_url, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickHouseSettings(HttpSettings):
    """The database of traces: its address, its cluster, and what `ibex migrate` sets on its table."""

    clickhouse_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_CLICKHOUSE_URL",
            secret_url("http", "https", "clickhouse", "clickhouses", "chdb"),
            "an http[s]://, clickhouse[s]:// or chdb:// URL",
            "The ClickHouse database of traces. chdb:///folder is an engine inside the process, for one process only.",
            is_secret=True,
        ),
    )
    clickhouse_cluster: str | None = setting(
        None,
        Variable(
            "IBEX_CLICKHOUSE_CLUSTER",
            cluster_name,
            "a name of letters, digits, and _ . -",
            "The ClickHouse cluster that has the tables, as in system.clusters. Not for ClickHouse Cloud.",
        ),
    )
    trace_ttl_days: int = setting(
        90,
        Variable(
            "IBEX_TRACE_TTL_DAYS",
            int_between(1, 36_500),
            "1 to 36500 days",
            "How long traces are kept. `ibex migrate` applies a change.",
        ),
    )
    trace_batches_per_second: int = setting(
        20,
        Variable(
            "IBEX_TRACE_BATCHES_PER_SECOND",
            int_between(1, 1_000),
            "1 to 1000 batches a second",
            "The expected number of batches of traces a second, of all workers together. A worker writes at most 5. "
            "ClickHouse remembers the batches of an hour, and stores a repeated one once. `ibex migrate` applies a "
            "change.",
        ),
    )
