"""Check the record: a checkpoint for every request, and every trace in time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
from benchmarks.gate.chat import A_SECOND
from benchmarks.gate.scene import others_in
from benchmarks.gate.verdict import Line, at_most, every_one
from benchmarks.proxy.generator import percentile

from harness.cpu_time import metered
from harness.request_load import at_a_rate
from ibex.adapters.clickhouse.connection import disconnect

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from uuid import UUID

    from benchmarks.gate.scene import Scene

    from harness.request_load import Answer

_RATE: Final = A_SECOND / 2
_SECONDS: Final = 4.0
_PATIENCE_S: Final = 10.0
_LOOK_S: Final = 0.02
_TRACES: Final = "SELECT request_id FROM {database:Identifier}.llm_traces WHERE requested_at >= {since:DateTime64(6)}"
_ALL_TRACES: Final = "SELECT request_id FROM {database:Identifier}.llm_traces"


def traces_in_time(scene: Scene) -> list[Line]:
    """Poll for traces while requests are answered. A trace counts as visible at the end of a poll."""
    database = scene.stack.clickhouse.name
    client = scene.stack.clickhouse.client()
    since = client.query("SELECT now64(6)").result_rows[0][0]
    ids, requests = scene.numbered(round(_RATE * _SECONDS))
    visible: dict[UUID, int] = {}
    wanted = set(ids)
    with metered(scene.processes()) as use:
        load = scene.generator.begin(
            at_a_rate, scene.base_url, requests, a_second=_RATE, seconds=_SECONDS, warm_up_s=0.0
        )
        deadline = time.monotonic() + _SECONDS + _PATIENCE_S
        while len(visible) < len(wanted) and time.monotonic() < deadline:
            rows = client.query(_TRACES, parameters={"database": database, "since": since}).result_rows
            looked = time.monotonic_ns()
            for (number,) in rows:
                visible.setdefault(number, looked)
            time.sleep(_LOOK_S)  # nothing signals that a trace has been stored
    disconnect(client)
    done = load.result()
    flaws = [f"{done.failed} failed"] if done.failed else []
    return [judge_traces(ids, done.answers, visible, flaws, others_in(use))]


def judge_traces(
    ids: Sequence[UUID],
    answers: Iterable[Answer],
    visible: Mapping[UUID, int],
    flaws: Sequence[str] = (),
    others: str = "",
) -> Line:
    """Return the line for requests in the order of their sending, and the times at which their traces were visible."""
    in_order = sorted(answers, key=lambda answer: answer.due_ns)
    pairs = list(zip(ids, in_order, strict=False))
    late = [(visible[number] - answer.answered_ns) / 1e6 for number, answer in pairs if number in visible]
    missing = len(ids) - len(late)
    looks = f"looked at every {_LOOK_S * 1e3:.0f} ms or so"
    note = f"worst of {len(late):,}, p50 {percentile(late, 50):.0f} ms; {looks}{others}"
    flaws = [*flaws, *([f"{missing} missing"] if missing else [])]
    worst = max(late, default=float("nan"))
    return at_most("a trace can be queried after its response", worst, "500 ms", note=note, flaws=flaws)


def all_on_record(scene: Scene) -> list[Line]:
    """Wait, within the delivery's bound, for the checkpoint and trace of every request that the provider received."""
    received = sum(scene.received().values())
    return [
        judge_record(
            "a checkpoint for every request", _settled(lambda: _checkpoints(scene), received), scene.sent, received
        ),
        judge_record("a trace for every request", _settled(lambda: _traces(scene), received), scene.sent, received),
    ]


def judge_record(what: str, found: Sequence[UUID], sent: Collection[UUID], received: int) -> Line:
    """Return the line for the records of the requests that the provider received, which include ``sent``."""
    kept = set(found)
    lost, twice = len(set(sent) - kept), len(found) - len(kept)
    flaws = [f"{lost} that were sent are not there"] if lost else []
    flaws += [f"{twice} are there twice"] if twice else []
    return every_one(what, len(kept), received, flaws=flaws)


def _settled(look: Any, expected: int) -> list[UUID]:
    deadline = time.monotonic() + _PATIENCE_S
    while len(found := look()) < expected and time.monotonic() < deadline:
        time.sleep(0.1)  # nothing signals the end of the delivery
    return list(found)


def _checkpoints(scene: Scene) -> list[UUID]:
    with psycopg.connect(scene.stack.postgres.superuser_url) as connection:
        return [number for (number,) in connection.execute("SELECT request_id FROM checkpoints")]


def _traces(scene: Scene) -> list[UUID]:
    client = scene.stack.clickhouse.client()
    rows = client.query(_ALL_TRACES, parameters={"database": scene.stack.clickhouse.name}).result_rows
    disconnect(client)
    return [number for (number,) in rows]
