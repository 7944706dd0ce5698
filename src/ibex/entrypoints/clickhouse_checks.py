"""The checks of `ibex doctor` for ClickHouse: the address, the table of traces and the cluster (ADR 0059)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.adapters.clickhouse.connection import ClickHouseAddress, is_loopback
from ibex.adapters.clickhouse.layout import is_replicated
from ibex.domain.record.sessions import SinkUnavailableError
from ibex.domain.record.traces import NIL_ID
from ibex.entrypoints.diagnosis import Result, Verdict, ok

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ibex.adapters.clickhouse.inspection import Cluster, TableState
    from ibex.adapters.clickhouse.traces import ClickHouseTraces

_CLOUD: Final = ".clickhouse.cloud"
_HOUR_S: Final = 3_600
_MIGRATE: Final = "Run `ibex migrate`."
_GRANTS: Final = "Grant the user SELECT on system.* and, on a cluster, REMOTE. Traces are written without them."


async def check_clickhouse(traces: ClickHouseTraces, url: str, cluster: str | None) -> Result:
    """Check ClickHouse as a proxy uses it. ``traces`` is open. Raises ``SinkUnavailableError`` if it does not answer.

    A failure is returned alone; all advice is returned together.
    """
    address = ClickHouseAddress.parse(url)
    if address.interface == "http" and address.host.endswith(_CLOUD):
        hint = f"Set IBEX_CLICKHOUSE_URL to https://user:password@{address.host}:8443/ibex."
        return Result(Verdict.FAILED, "ClickHouse Cloud accepts only encrypted connections", hint)
    await traces.ping()
    try:
        await traces.tail(NIL_ID, 1)
    except SinkUnavailableError as error:
        return Result(Verdict.FAILED, f"traces cannot be read: {error}", "Run `ibex migrate` to create the table.")
    try:
        state = await traces.inspect()
    except SinkUnavailableError as error:
        message = f"traces can be read, but the tables and the cluster cannot be checked: {error}"
        return Result(Verdict.ADVICE, message, _GRANTS)
    found = [*_table_findings(state, cluster), *_address_findings(address)]
    if failure := next((one for one in found if one.verdict is Verdict.FAILED), None):
        return failure
    if found:
        return Result(
            Verdict.ADVICE, "; ".join(one.message for one in found), " ".join(one.hint for one in found if one.hint)
        )
    return ok(_summary(state))


def _summary(state: TableState) -> str:
    if not state.has_asynchronous_inserts:
        return "traces can be read"
    where = f", and {state.cluster.answering} servers of the cluster answer" if state.cluster else ""
    return f"traces can be read, inserts are asynchronous{where}"


def _address_findings(address: ClickHouseAddress) -> Iterator[Result]:
    if address.interface == "http" and not is_loopback(address.host):
        message = f"the connection to {address.host} is not encrypted"
        yield Result(Verdict.ADVICE, message, "Use https:// in IBEX_CLICKHOUSE_URL, unless the network is private.")


def _table_findings(state: TableState, cluster: str | None) -> Iterator[Result]:
    if state.cluster is not None:
        yield from _cluster_findings(state.cluster, state, cluster or "")
    elif state.front == "Distributed":
        hint = "Set IBEX_CLICKHOUSE_CLUSTER to the name of the cluster."
        yield Result(Verdict.FAILED, "llm_traces belongs to a cluster, and IBEX_CLICKHOUSE_CLUSTER is not set", hint)
    window = state.window
    if window.batches < window.busiest_hour:
        needed = -(-window.busiest_hour // _HOUR_S)
        message = (
            f"the table remembers {window.batches:,} batches, fewer than the {window.busiest_hour:,} of the busiest "
            "hour of the last day: a batch that is repeated late could be stored twice"
        )
        yield Result(Verdict.ADVICE, message, f"Set IBEX_TRACE_BATCHES_PER_SECOND to {needed} or more. {_MIGRATE}")
    if state.engine and not state.has_asynchronous_inserts:
        version = "23.7" if is_replicated(state.engine) else "26.2"
        message = (
            f"ClickHouse {state.version} cannot recognize repeated batches of asynchronous inserts into a table with "
            f"the engine {state.engine}, so each batch becomes a part: up to 5 a second from each worker"
        )
        hint = f"With more than 10 workers, use version {version} or newer, and allow this user to change its settings."
        yield Result(Verdict.ADVICE, message, hint)


def _cluster_findings(cluster: Cluster, state: TableState, name: str) -> Iterator[Result]:
    if not cluster.servers:
        hint = "Set IBEX_CLICKHOUSE_CLUSTER to a name from `SELECT DISTINCT cluster FROM system.clusters`."
        yield Result(Verdict.FAILED, f"the server has no cluster named {name}", hint)
        return
    if not is_replicated(state.engine) or state.front != "Distributed":
        message = (
            f"the tables are not those of a cluster: llm_traces has the engine {state.front or '(no table)'},"
            f" llm_traces_local {state.engine or '(no table)'}"
        )
        yield Result(Verdict.FAILED, message, f"{_MIGRATE} Name a new database in IBEX_CLICKHOUSE_URL first.")
        return
    if cluster.shards_reached > 1:
        message = (
            f"IBEX_CLICKHOUSE_URL leads to {cluster.shards_reached} shards: a batch that is repeated on another shard "
            "is stored twice"
        )
        yield Result(Verdict.FAILED, message, "Let the URL of each proxy lead to the replicas of one shard only.")
    if cluster.is_read_only:
        hint = "Check ClickHouse Keeper and the server's connection to it."
        yield Result(Verdict.FAILED, "llm_traces_local is read-only: the server has lost ClickHouse Keeper", hint)
    if cluster.answering < cluster.servers:
        message = f"{cluster.answering} of {cluster.servers} servers of the cluster {name} answer"
        yield Result(Verdict.ADVICE, message, "See errors_count in system.clusters for the servers that do not.")
    elif cluster.with_table < cluster.servers:
        message = f"{cluster.with_table} of {cluster.servers} servers of the cluster {name} have the table"
        hint = "Create the tables on a new server with the statements that SHOW CREATE TABLE returns on another one."
        yield Result(Verdict.ADVICE, message, hint)
