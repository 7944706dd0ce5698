"""`make bench-identity`: the cost of authentication, and how long a revoked token is served, with and without faults.

Auth, two proxy workers, PostgreSQL, Redis and a ClickHouse engine on loopback, with a relay in each link. ``--quick``
makes few tries of each; the full run takes about three quarters of an hour. Parts can run alone: revocation
(``--revocations``), revocation with Sentinel, a Cluster and a second region (``--topologies``), two auth replicas
(``--replicas``), and a worker that starts with this many live tokens (``--tokens 3000000``).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import httpx
import psycopg
from benchmarks import identity_topologies

from harness.chat_scene import AGENT, ORG, TOKEN, TOKEN_TEXT, Caches, ScriptedAgents, ScriptedTokens, principal
from harness.load import PROBE, Load
from harness.loopback import resident_kib
from harness.memory.clock import ManualClock
from harness.memory.epochs import InMemoryEpochs
from harness.revocation import LINKS, RelayedStack, relayed_stack
from ibex.adapters.grpc.generated import auth_pb2, auth_pb2_grpc
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.system.ids import SystemIds
from ibex.domain.freshness.token_filter import BloomFilter
from ibex.domain.identity.model import Agent, AgentStatus, PersonalAccessToken
from ibex.domain.proxying.admission import Admission, Credentials
from ibex.domain.proxying.refused_requests import RefusedRequests
from ibex.domain.record.in_flight import InFlightExchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.revocation import Outcome, Revoker

_parser = argparse.ArgumentParser(description="Measure authentication and revocation.")
_parser.add_argument("--quick", action="store_true", help="few tries of each")
_parser.add_argument("--revocations", action="store_true", help="measure revocation alone")
_parser.add_argument("--topologies", action="store_true", help="measure Sentinel, Cluster and a second region alone")
_parser.add_argument("--replicas", action="store_true", help="measure two auth replicas alone")
_parser.add_argument("--tokens", type=int, default=0, help="measure a worker's start with so many live tokens, alone")
OPTIONS = _parser.parse_args()
QUICK = OPTIONS.quick
HEALTHY_TRIES, FAULT_TRIES = (3, 1) if QUICK else (10, 10)
REVOKED_A_SECOND = 200.0
"""How often a token is used while it is revoked, and so is a live one beside it."""
CLIENTS = 100
FILTER_TOKENS, FILTER_PROBES = (100_000, 100_000) if QUICK else (1_000_000, 200_000)
OUTAGE_S = 5 if QUICK else 60
REPLICAS_OUTAGE_S = 5 if QUICK else 30
FLOOD_S = 5
_IN_PROCESS = 20_000
UNKNOWN_TOKENS = 100_000
"""How many the false positives of the filter of a worker are counted among."""
_ADD_TOKENS = """
INSERT INTO tokens (id, org_id, name, permissions, key_id, digest, agent_id, created_at)
SELECT gen_random_uuid(), %s, 'one of many', 1, 'k', sha256(n::text::bytea), NULL, now()
FROM generate_series(1, %s) n
"""


def main() -> None:
    """Measure and print the figures."""
    if OPTIONS.tokens:
        _many_tokens(OPTIONS.tokens)
        return
    if OPTIONS.revocations:
        with relayed_stack(IBEX_AUTH_TIMEOUT="0.2") as stack:
            _revocations(stack)
    if OPTIONS.topologies:
        identity_topologies.revocations(_tell, FAULT_TRIES)
    if OPTIONS.replicas:
        identity_topologies.auth_replicas(_say, REPLICAS_OUTAGE_S)
    if OPTIONS.revocations or OPTIONS.topologies or OPTIONS.replicas:
        return
    asyncio.run(_in_process())
    _filter()
    with relayed_stack(IBEX_AUTH_TIMEOUT="0.2") as stack:
        _grpc(stack)
        _flood(stack)
        _outages(stack)
        _revocations(stack)
    identity_topologies.revocations(_tell, FAULT_TRIES)
    identity_topologies.auth_replicas(_say, REPLICAS_OUTAGE_S)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _in_process() -> None:
    clock = ManualClock()
    caches, epochs = Caches(clock), InMemoryEpochs(clock, SystemIds())
    tokens = caches.tokens(ScriptedTokens(principal(), epochs=epochs))
    agents = caches.agents(ScriptedAgents(Agent(AGENT, ORG, AgentStatus.ACTIVE), epochs=epochs))
    admit = Admission(tokens, agents, InMemoryRateLimiter(epochs), RefusedRequests(default_rpm=0), default_rpm=0)
    credentials = Credentials(TOKEN_TEXT, str(AGENT))
    for _ in range(3):
        await admit(credentials, InFlightExchange.begin(clock, uuid4(), ""))
    epoch = epochs.read(ORG)

    async def authenticate() -> None:
        token = PersonalAccessToken.parse(TOKEN.reveal())
        if token is not None:
            await tokens.validate(await tokens.look_up(token.reveal()), epoch)

    async def agent() -> None:
        await agents.validate(await agents.look_up(ORG, AGENT), epoch)

    for name, step in (("authenticate from the LRU", authenticate), ("agent from the LRU", agent)):
        took = []
        for _ in range(_IN_PROCESS):
            started = time.perf_counter_ns()
            await step()
            took.append((time.perf_counter_ns() - started) / 1_000)
        _say(f"{name}: p50 {statistics.median(took):.1f} µs, p99 {statistics.quantiles(took, n=100)[-1]:.1f} µs")


def _filter() -> None:
    content = BloomFilter(2 * FILTER_TOKENS, os.urandom(32))
    for _ in range(FILTER_TOKENS):
        content.add(uuid4())
    false = sum(not content.definitely_absent(uuid4()) for _ in range(FILTER_PROBES))
    _say(
        f"filter of {FILTER_TOKENS:,} tokens, sized for twice as many: {content.size_bytes // 1024:,} KiB,"
        f" {false / FILTER_PROBES:.4%} of {FILTER_PROBES:,} unknown tokens pass"
    )


def _grpc(stack: RelayedStack) -> None:
    request = auth_pb2.ValidateTokenRequest(access_token=stack.installation.agent_token.reveal())
    metadata = (("authorization", f"Bearer {stack.production.environ['IBEX_AUTH_SERVICE_TOKEN']}"),)

    async def measure(concurrent: int) -> list[float]:
        took: list[float] = []
        async with grpc.aio.insecure_channel(stack.direct_auth) as channel:
            service = auth_pb2_grpc.AuthServiceStub(channel)

            async def caller() -> None:
                for _ in range(2_000 // concurrent):
                    started = time.perf_counter()
                    await service.ValidateToken(request, metadata=metadata)
                    took.append((time.perf_counter() - started) * 1_000)

            await asyncio.gather(*(caller() for _ in range(concurrent)))
        return took

    for concurrent in (1, 20):
        took = asyncio.run(measure(concurrent))
        _say(
            f"a miss over gRPC to PostgreSQL, {concurrent} at a time:"
            f" p50 {statistics.median(took):.2f} ms, p99 {statistics.quantiles(took, n=100)[-1]:.2f} ms"
        )


def _calls(stack: RelayedStack) -> Counter[str]:
    calls: Counter[str] = Counter()
    address = stack.auth.wait_for_line("health and metrics on", 1).split("metrics on ")[1].split('"')[0]
    for line in httpx.get(f"{address}/metrics", trust_env=False).text.splitlines():
        if line.startswith("ibex_auth_call_duration_seconds_count"):
            calls[line.split('method="')[1].split('"')[0]] += int(float(line.rpartition(" ")[2]))
    return calls


def _unknown() -> str:
    return PersonalAccessToken.issue(uuid4(), bytes(32)).reveal()


def _flood(stack: RelayedStack) -> None:
    """Send a thousand unknown tokens a second, beside clients with a valid one."""
    with Load(stack.address, stack.installation.agent_token.reveal, 10, a_second=500).running() as good:
        time.sleep(2)
        begun, before = time.monotonic(), _calls(stack)
        time.sleep(FLOOD_S)
        flooded = time.monotonic()
        with Load(stack.address, _unknown, 20, a_second=1_000).running() as flood:
            time.sleep(FLOOD_S)
        ended = time.monotonic()
    reached = (_calls(stack) - before)["ValidateToken"]
    asked, marks = len(flood.asked), {"before": (begun, flooded), "during": (flooded, ended)}
    _say(
        f"{asked / FLOOD_S:.0f} unknown tokens a second: {dict(flood.statuses())}, of which {reached} reached auth"
        f" ({reached / asked:.2%}); beside them {_phases(good, marks)}"
    )


def _phases(load: Load, marks: dict[str, tuple[float, float]]) -> str:
    told = []
    for name, (begin, end) in marks.items():
        asked = [one for one in list(load.asked) if begin <= one.sent < end]
        ms = sorted((one.answered - one.sent) * 1_000 for one in asked)
        failed = sum(one.status != 200 for one in asked)  # noqa: PLR2004 - served
        told.append(f"{name} {len(asked)} requests, {failed} failed, p99 {ms[int(len(ms) * 0.99)]:.0f} ms")
    return "; ".join(told)


def _outages(stack: RelayedStack) -> None:
    redis, postgres = stack.redis, stack.database.server
    faults: dict[str, tuple[Callable[[], None], Callable[[], None], float]] = {
        f"Redis frozen for {OUTAGE_S} s": (redis.pause, redis.resume, OUTAGE_S),
        f"Redis killed for {OUTAGE_S} s": (redis.kill, redis.start, OUTAGE_S),
        f"PostgreSQL stopped for {OUTAGE_S} s": (postgres.stop, postgres.start, OUTAGE_S),
        "PostgreSQL crashed and restarted": (lambda: postgres.restart(immediate=True), lambda: None, 0.0),
    }
    for name, (break_it, mend_it, duration) in faults.items():
        with Load(stack.address, stack.installation.agent_token.reveal, CLIENTS).running() as load:
            time.sleep(5)
            broken = time.monotonic()
            break_it()
            time.sleep(duration)
            mend_it()
            mended = time.monotonic()
            time.sleep(5)
            ended = time.monotonic()
        marks = {"before": (broken - 4, broken), "during": (broken, mended), "after": (mended + 1, ended - 0.5)}
        _say(f"{name}, {CLIENTS} clients: {_phases(load, marks)}")


def _revocations(stack: RelayedStack) -> None:
    loaded = replace(stack, clients=CLIENTS // 2, a_second=REVOKED_A_SECOND)
    _tell("healthy", [loaded.revoke_under() for _ in range(HEALTHY_TRIES)])
    _tell("healthy, by SQL", [loaded.revoke_under(by="sql") for _ in range(FAULT_TRIES)])
    _tell("Redis emptied", [loaded.revoke_under(stack.flush_redis) for _ in range(FAULT_TRIES)])
    for link in LINKS:
        relay = stack.relays[link]
        by: Revoker = "operator" if link == "auth-postgres" else "auth"
        for how in ("stall", "cut"):
            revoke = partial(loaded.revoke_under, getattr(relay, how), relay.heal, by=by)
            _tell(f"{link} {how}", [revoke() for _ in range(FAULT_TRIES)])
    stopped: dict[str, tuple[Callable[[], Any], Callable[[], Any], Revoker]] = {
        "auth SIGSTOP": (stack.freeze_auth, stack.thaw_auth, "operator"),
        "auth SIGSTOP, by SQL": (stack.freeze_auth, stack.thaw_auth, "sql"),
        "Redis SIGSTOP": (stack.redis.pause, stack.redis.resume, "auth"),
        "Redis killed": (stack.redis.kill, stack.redis.start, "auth"),
        "a worker SIGSTOP": (stack.freeze_worker, stack.thaw_worker, "auth"),
    }
    for name, (stop, resume, by) in stopped.items():
        _tell(name, [loaded.revoke_under(stop, resume, by=by) for _ in range(FAULT_TRIES)])


def _tell(what: str, outcomes: list[Outcome]) -> None:
    served = [outcome.served_s for outcome in outcomes]
    live: Counter[int] = sum((Counter(outcome.live) for outcome in outcomes), Counter())
    _say(
        f"revoked, {what}: served for p50 {statistics.median(served):.2f} s,"
        f" worst of {len(served)} {max(served):.2f} s; a live token meanwhile: {dict(sorted(live.items()))}"
    )


def _many_tokens(count: int) -> None:
    """Measure a worker's start with this many live tokens: the time until its filter is complete, memory, responses."""
    with relayed_stack(IBEX_AUTH_TIMEOUT="0.2") as stack:
        stack.production.stop_latest()
        _, complete_s, small_kib, _ = _start_worker(stack)
        _say(f"few tokens: the filter is complete {complete_s:.1f} s after the start, {small_kib // 1024} MiB")
        stack.production.stop_latest()
        began = time.monotonic()
        with psycopg.connect(stack.database.superuser_url) as connection:
            connection.execute("SET session_replication_role = replica")  # without triggers that log each row
            connection.execute(_ADD_TOKENS, [stack.installation.organization.id, count])
        with psycopg.connect(stack.database.superuser_url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE tokens")
        _say(f"{count:,} tokens inserted in {time.monotonic() - began:.0f} s")
        listening_s, complete_s, kib, lag = _start_worker(stack)
        _say(
            f"{count:,} tokens: listening {listening_s:.1f} s after the start, the filter is complete after"
            f" {complete_s:.1f} s; {kib // 1024} MiB, {(kib - small_kib) / 1024:.0f} MiB more than with few;"
            f" event-loop lag of the build: {lag}"
        )
        before = _samples(stack, "ibex_proxy_filter_lookups_total")
        with Load(stack.address, _unknown, 400).running() as load:
            while len(load.asked) < UNKNOWN_TOKENS:
                time.sleep(0.1)  # the other thread sends no notification
        after = _samples(stack, "ibex_proxy_filter_lookups_total")
        absent, passed = (after[f'outcome="{name}"'] - before[f'outcome="{name}"'] for name in ("absent", "passed"))
        _say(
            f"{len(load.asked):,} unknown tokens: {dict(load.statuses())}; {passed:.0f} of {absent + passed:.0f}"
            f" passed the filter ({passed / (absent + passed):.4%})"
        )


def _start_worker(stack: RelayedStack) -> tuple[float, float, int, str]:
    """Start one worker. Return when it listens and when its filter is complete, its memory, and its loop's lag."""
    began = time.monotonic()
    stack.address = stack.production.start_proxy(workers=1)
    listening = time.monotonic()
    worker, worst_s = stack.production.processes[-1].process.pid, 0.0
    with httpx.Client(base_url=stack.address, trust_env=False, timeout=30) as client:
        while not _samples(stack, "ibex_proxy_filter_lookups_total")['outcome="absent"']:
            client.get(PROBE, headers={"authorization": f"Bearer {_unknown()}"})
            asked = time.monotonic()
            client.get("/health")
            worst_s = max(worst_s, time.monotonic() - asked)
        complete = time.monotonic()
        buckets = _samples(stack, "ibex_proxy_event_loop_lag_seconds_bucket")
    total = max(buckets.values())
    limit = min(float(name.split('le="')[1].split('"')[0]) for name, seen in buckets.items() if seen == total)
    lag = f"below {limit * 1_000:.0f} ms by its metric; /health answered within {worst_s * 1_000:.0f} ms"
    return listening - began, complete - began, resident_kib(worker), lag


def _samples(stack: RelayedStack, name: str) -> Counter[str]:
    """Return the samples of one of the proxy's metrics, by their labels."""
    found: Counter[str] = Counter()
    for line in httpx.get(f"{stack.address}/metrics", trust_env=False, timeout=30).text.splitlines():
        if line.startswith(f"{name}{{"):
            labels, _, value = line.removeprefix(f"{name}{{").rpartition("} ")
            found[labels] += int(float(value))
    return found


if __name__ == "__main__":
    main()
