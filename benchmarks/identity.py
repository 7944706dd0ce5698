"""`make bench-identity`: what authenticating costs, and how long a revoked token is served, healthy and under faults.

Auth, two proxy workers, PostgreSQL, Redis and a ClickHouse engine on loopback, a relay in each link. ``--quick`` makes
few tries of each; the full run takes about half an hour.
"""

from __future__ import annotations

import asyncio
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

from harness.chat_scene import AGENT, BEARER, ORG, TOKEN, Caches, ScriptedAgents, ScriptedTokens, principal
from harness.load import Load
from harness.revocation import LINKS, RelayedStack, relayed_stack
from ibex.adapters.grpc.generated import auth_pb2, auth_pb2_grpc
from ibex.adapters.memory.board import InMemoryBoard
from ibex.adapters.memory.clock import ManualClock
from ibex.adapters.memory.rate_limits import InMemoryRateLimiter
from ibex.adapters.system.ids import SystemIds
from ibex.domain.admit_caller import AdmitCaller, Credentials
from ibex.domain.identity import Agent, AgentStatus, PersonalAccessToken
from ibex.domain.known_tokens import FILTER_BITS, filter_of, positions
from ibex.domain.open_exchange import OpenExchange
from ibex.domain.refused_requests import RefusedRequests

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.revocation import Outcome

QUICK = "--quick" in sys.argv
HEALTHY_TRIES, FAULT_TRIES = (3, 1) if QUICK else (50, 10)
CLIENTS = 100
FILTER_TOKENS, FILTER_PROBES = (100_000, 100_000) if QUICK else (1_000_000, 200_000)
OUTAGE_S = 5 if QUICK else 60
FLOOD_S = 5
_IN_PROCESS = 20_000


def main() -> None:
    """Print the figures."""
    asyncio.run(_in_process())
    _filter()
    with relayed_stack(IBEX_AUTH_TIMEOUT="0.2") as stack:
        _grpc(stack)
        _flood(stack)
        _outages(stack)
        _revocations(stack)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _in_process() -> None:
    clock, caches = ManualClock(), Caches(ManualClock())
    board = InMemoryBoard(clock, SystemIds())
    connection = await board.connection()
    await board.finish_filter(connection, await board.begin_filter(connection), filter_of([]))
    await board.renew(connection, await board.begin_turn(connection) or "")
    tokens = caches.tokens(ScriptedTokens(principal()))
    agents = caches.agents(ScriptedAgents(Agent(AGENT, ORG, AgentStatus.ACTIVE)))
    admit = AdmitCaller(tokens, agents, InMemoryRateLimiter(board.news), RefusedRequests(default_rpm=0), default_rpm=0)
    credentials = Credentials(BEARER, str(AGENT))
    for _ in range(3):
        await admit(credentials, OpenExchange.begin(clock, uuid4(), ""))
    news = board.news(ORG)

    async def authenticate() -> None:
        token = PersonalAccessToken.parse(TOKEN.reveal())
        if token is not None:
            await tokens.confirm(await tokens.recall(token.reveal()), news)

    async def agent() -> None:
        await agents.confirm(await agents.recall(ORG, AGENT), news)

    for name, step in (("authenticate from the LRU", authenticate), ("agent from the LRU", agent)):
        took = []
        for _ in range(_IN_PROCESS):
            started = time.perf_counter_ns()
            await step()
            took.append((time.perf_counter_ns() - started) / 1_000)
        _say(f"{name}: p50 {statistics.median(took):.1f} µs, p99 {statistics.quantiles(took, n=100)[-1]:.1f} µs")


def _filter() -> None:
    content = filter_of(uuid4() for _ in range(FILTER_TOKENS))

    def passes() -> bool:
        return all(content[bit >> 3] & (0x80 >> (bit & 7)) for bit in positions(uuid4()))

    false = sum(passes() for _ in range(FILTER_PROBES))
    _say(
        f"filter of {FILTER_TOKENS:,} tokens: {FILTER_BITS // 8 // 1024:,} KiB,"
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
    """Ask with a thousand unknown tokens a second, beside clients that have a good one."""
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
    redis, postgres = stack.redis, stack.postgres
    faults: dict[str, tuple[Callable[[], None], Callable[[], None], float]] = {
        f"Redis frozen for {OUTAGE_S} s": (redis.pause, redis.resume, OUTAGE_S),
        f"Redis killed for {OUTAGE_S} s": (redis.kill, redis.start, OUTAGE_S),
        "PostgreSQL restarted": (postgres.stop, postgres.start, 0.0),
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
    def nothing() -> None:
        pass

    loaded = replace(stack, clients=CLIENTS // 2)
    _tell("healthy", [loaded.revoke_under(nothing, nothing, by_auth=True) for _ in range(HEALTHY_TRIES)])
    for link in LINKS:
        relay = stack.relays[link]
        for how in ("stall", "cut"):
            revoke = partial(loaded.revoke_under, getattr(relay, how), relay.heal, by_auth=link != "auth-postgres")
            _tell(f"{link} {how}", [revoke() for _ in range(FAULT_TRIES)])
    frozen: dict[str, tuple[Callable[[], Any], Callable[[], Any], bool]] = {
        "auth": (stack.freeze_auth, stack.thaw_auth, False),
        "Redis": (stack.redis.pause, stack.redis.resume, True),
    }
    for name, (freeze, thaw, by_auth) in frozen.items():
        _tell(f"{name} SIGSTOP", [loaded.revoke_under(freeze, thaw, by_auth=by_auth) for _ in range(FAULT_TRIES)])


def _tell(what: str, outcomes: list[Outcome]) -> None:
    served = [outcome.served_s for outcome in outcomes]
    live: Counter[int] = sum((Counter(outcome.live) for outcome in outcomes), Counter())
    _say(
        f"revoked, {what}: served for p50 {statistics.median(served):.2f} s,"
        f" worst of {len(served)} {max(served):.2f} s; a live token meanwhile: {dict(sorted(live.items()))}"
    )


if __name__ == "__main__":
    main()
