"""The doctor's checks of ClickHouse, on states of a server that no test has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from ibex.adapters.clickhouse.inspection import Cluster, TableState, Window
from ibex.domain.record.sessions import SinkUnavailableError
from ibex.entrypoints.clickhouse_checks import check_clickhouse
from ibex.entrypoints.diagnosis import Result, Verdict

if TYPE_CHECKING:
    from ibex.adapters.clickhouse.traces import ClickHouseTraces

LOCAL = "http://u:canary@127.0.0.1:8123"
SINGLE = TableState("26.9.2.1", "MergeTree", "MergeTree", has_asynchronous_inserts=True, window=Window(72_000, 71_999))
WHOLE = Cluster(servers=4, shards=2, answering=4, with_table=4, shards_reached=1, is_read_only=False)
CLUSTERED = replace(SINGLE, front="Distributed", engine="ReplicatedMergeTree", cluster=WHOLE)


class Inspected:
    """Traces whose table has this state. Without one, they cannot be read; without the grants, not inspected."""

    def __init__(self, state: TableState | None, *, has_grants: bool = True) -> None:
        self._state = state
        self._has_grants = has_grants

    async def ping(self) -> None:
        """Return: the server answers."""

    async def tail(self, *_arguments: Any) -> list[object]:
        """Return no traces, or raise."""
        if self._state is None:
            raise SinkUnavailableError("no table")
        return []

    async def inspect(self) -> TableState | None:
        """Return the state, or raise."""
        if not self._has_grants:
            raise SinkUnavailableError("ACCESS_DENIED, code 497")
        return self._state


async def checked(state: TableState | None, url: str = LOCAL, cluster: str | None = None) -> Result:
    """Return the result for traces in this state."""
    return await check_clickhouse(cast("ClickHouseTraces", Inspected(state)), url, cluster)


async def test_a_single_server_passes() -> None:
    """The window has room for the busiest hour."""
    assert await checked(SINGLE) == Result(Verdict.OK, "traces can be read, inserts are asynchronous")


async def test_a_cluster_passes() -> None:
    """Every server answers and has the table, and the URL leads to one shard."""
    result = await checked(CLUSTERED, cluster="main")
    assert result.verdict is Verdict.OK
    assert result.message == "traces can be read, inserts are asynchronous, and 4 servers of the cluster answer"


@pytest.mark.parametrize(
    ("state", "cluster", "verdict", "said", "hint"),
    [
        (None, None, "failed", "traces cannot be read: no table", "Run `ibex migrate` to create the table."),
        (
            replace(SINGLE, window=Window(10_000, 10_801)),
            None,
            "advice",
            "the table remembers 10,000 batches, fewer than the 10,801 of the busiest hour",
            "Set IBEX_TRACE_BATCHES_PER_SECOND to 4 or more. Run `ibex migrate`.",
        ),
        (
            replace(SINGLE, version="25.8.1.1", has_asynchronous_inserts=False),
            None,
            "advice",
            "ClickHouse 25.8.1.1 cannot recognize repeated batches of asynchronous inserts",
            "version 26.2 or newer",
        ),
        (
            replace(CLUSTERED, version="23.3", has_asynchronous_inserts=False),
            "main",
            "advice",
            "each batch becomes a part",
            "version 23.7 or newer",
        ),
        (
            replace(SINGLE, front="Distributed", engine="Distributed", has_asynchronous_inserts=False),
            None,
            "failed",
            "llm_traces belongs to a cluster",
            "Set IBEX_CLICKHOUSE_CLUSTER",
        ),
        (
            replace(CLUSTERED, cluster=replace(WHOLE, servers=0)),
            "mian",
            "failed",
            "the server has no cluster named mian",
            "system.clusters",
        ),
        (
            replace(SINGLE, cluster=WHOLE),
            "main",
            "failed",
            "llm_traces has the engine MergeTree, llm_traces_local MergeTree",
            "Name a new database",
        ),
        (
            replace(CLUSTERED, cluster=replace(WHOLE, shards_reached=2)),
            "main",
            "failed",
            "IBEX_CLICKHOUSE_URL leads to 2 shards",
            "the replicas of one shard only",
        ),
        (
            replace(CLUSTERED, cluster=replace(WHOLE, is_read_only=True)),
            "main",
            "failed",
            "llm_traces_local is read-only",
            "Check ClickHouse Keeper",
        ),
        (
            replace(CLUSTERED, cluster=replace(WHOLE, answering=3, with_table=3)),
            "main",
            "advice",
            "3 of 4 servers of the cluster main answer",
            "errors_count",
        ),
        (
            replace(CLUSTERED, cluster=replace(WHOLE, with_table=3)),
            "main",
            "advice",
            "3 of 4 servers of the cluster main have the table",
            "SHOW CREATE TABLE",
        ),
    ],
)
async def test_what_is_wrong_is_said_with_what_to_do(
    state: TableState | None, cluster: str | None, verdict: str, said: str, hint: str
) -> None:
    """The message has the values that were found."""
    result = await checked(state, cluster=cluster)
    assert result.verdict.value == verdict
    assert said in result.message
    assert hint in (result.hint or "")


async def test_a_user_who_cannot_see_the_cluster_still_writes_traces() -> None:
    """So this is advice, and names the grants."""
    result = await check_clickhouse(cast("ClickHouseTraces", Inspected(SINGLE, has_grants=False)), LOCAL, "main")
    assert result.verdict is Verdict.ADVICE
    assert "code 497" in result.message
    assert "REMOTE" in (result.hint or "")


async def test_a_connection_across_the_network_should_be_encrypted() -> None:
    """The finding shows the host and no password."""
    result = await checked(SINGLE, "http://u:canary@clickhouse:8123")
    assert (result.verdict, result.message) == (Verdict.ADVICE, "the connection to clickhouse is not encrypted")
    assert "canary" not in repr(result)
    assert (await checked(SINGLE, "https://u:canary@clickhouse")).verdict is Verdict.OK


async def test_all_advice_is_given_at_once() -> None:
    """So the operator does not have to run the doctor for each."""
    result = await checked(replace(SINGLE, window=Window(1, 2)), "http://u:p@clickhouse:8123")
    assert "remembers 1 batches" in result.message
    assert "is not encrypted" in result.message


async def test_cloud_needs_https() -> None:
    """The hint has the URL with its port, and no password."""
    result = await checked(SINGLE, "http://u:canary@abc.eu-west-1.aws.clickhouse.cloud:8123")
    assert result.verdict is Verdict.FAILED
    assert "https://user:password@abc.eu-west-1.aws.clickhouse.cloud:8443/ibex" in (result.hint or "")
    assert "canary" not in repr(result)
