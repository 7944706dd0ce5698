"""The findings of the oracle: the record, compared with what clients and the provider saw."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from harness.oracle_load import Asked

Row: TypeAlias = "dict[str, Any]"


@dataclass(slots=True)
class Findings:
    """The figures of a run. ``wrong`` lists inconsistencies; it is empty if there are none.

    ``lost`` counts requests that reached the provider but lack a checkpoint or a trace; ``told`` those among them that
    the proxy reported as not kept because its journal's disk was full. ``high_water_*`` are the maxima of all journals
    together.
    """

    minutes: float
    requests: int
    complete: int
    received: int
    checkpoints: int
    traces: int
    faults: dict[str, int]
    statuses: dict[int, int]
    lost: int = 0
    told: int = 0
    duplicated: int = 0
    high_water_exchanges: int = 0
    high_water_bytes: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The observations of clients and provider, and the records in both databases.

    ``told`` are the requests that the proxy reported as not kept. ``unprotected`` are those in flight while the
    journal's disk was full: if their worker was killed then, they may have no record.
    """

    asked: dict[UUID, Asked]
    received: AbstractSet[UUID]
    checkpoints: Sequence[Row]
    traces: Sequence[Row]
    sessions: Sequence[Row]
    told: Collection[UUID] = ()
    unprotected: Collection[UUID] = ()

    def judge(self, findings: Findings) -> None:
        """Add lost and duplicated records and all other inconsistencies to the findings."""
        by_request = {row["request_id"]: row for row in self.checkpoints}
        trace_of = {row["request_id"]: row for row in self.traces}
        wrong = findings.wrong
        for unknown in (by_request.keys() | trace_of.keys()) - self.asked.keys():
            wrong.append(f"{unknown} is on record, but nobody asked it")
        for name, found in (("checkpoint", self.checkpoints), ("trace", self.traces)):
            twice = [id_ for id_, count in Counter(row["request_id"] for row in found).items() if count > 1]
            findings.duplicated += len(twice)
            wrong.extend(f"{id_} has more than one {name}" for id_ in twice)
        missing = self.received - (by_request.keys() & trace_of.keys())
        findings.told = len(missing & set(self.told))
        for lost in sorted(missing - set(self.told)):
            if self.asked[lost].complete or lost not in self.unprotected:
                findings.lost += 1
                wrong.append(f"{lost} reached the provider and lacks a checkpoint or trace: {self.asked[lost]}")
        for one in self.asked.values():
            if one.complete and one.id in by_request and one.id in trace_of:
                wrong.extend(_unequal(one, by_request[one.id], trace_of[one.id]))
        turns: dict[UUID, list[Row]] = defaultdict(list)
        for row in self.checkpoints:
            turns[row["session_id"]].append(row)
        for session in self.sessions:
            wrong.extend(self._does_not_add_up(session, turns.pop(session["id"], [])))
        wrong.extend(f"{session_id} has turns and is no session" for session_id in turns)
        wrong.extend(self._gaps())

    def _does_not_add_up(self, session: Row, own: Sequence[Row]) -> Iterator[str]:
        name = session["external_id"]
        if sorted(row["turn_index"] for row in own) != list(range(session["turn_count"])):
            yield f"{name}: {session['turn_count']} turns, numbered otherwise"
        for total, part in (
            ("total_input_tokens", "input_tokens"),
            ("total_output_tokens", "output_tokens"),
            ("total_latency_ms", "latency_ms"),
        ):
            if session[total] != sum(row[part] or 0 for row in own):
                yield f"{name}: {total} does not add up"
        ended = any(self.asked[row["request_id"]].ends for row in own if row["request_id"] in self.asked)
        if (session["status"] == "completed") != ended or (session["completed_at"] is not None) != ended:
            yield f"{name} is {session['status']}, a turn {'has' if ended else 'has not'} ended it"

    def _gaps(self) -> Iterator[str]:
        """Report gaps in an emitter's numbers. Only exchanges that the proxy reported as not kept may be missing."""
        numbers: dict[UUID, list[int]] = defaultdict(list)
        for row in self.traces:
            numbers[row["emitter_id"]].append(row["emitter_seq"])
        holes = {emitter: max(own) - len(set(own)) for emitter, own in numbers.items()}
        if sum(holes.values()) > len(self.told):
            yield from (f"emitter {emitter} lacks {count} of its numbers" for emitter, count in holes.items() if count)


def _unequal(one: Asked, checkpoint: Row, trace: Row) -> list[str]:
    both = {
        "is_complete": True,
        "is_streaming": one.stream,
        "input_tokens": one.tokens[0],
        "output_tokens": one.tokens[1],
        "model": one.model,
        "provider": "openai",
    }
    expected = {"completion_hash": one.completion_hash, "messages_hash": one.messages_hash, "external_id": one.handle}
    wrong = [
        f"{one.id}: {name} is {checkpoint[name]!r}"
        for name, value in (both | expected).items()
        if checkpoint[name] != value
    ]
    same = {"checkpoint_id": "id", "session_id": "session_id", "org_id": "org_id", "agent_id": "agent_id"}
    traced = both | {"status_code": 200, "error_code": ""} | {name: checkpoint[own] for name, own in same.items()}
    return wrong + [
        f"{one.id}: the trace's {name} is {trace[name]!r}" for name, value in traced.items() if trace[name] != value
    ]
