"""The part of `make bench-identity` that needs more servers: auth replicas, Sentinel, Cluster and a second region."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from harness.auth_replicas import AuthReplicas
from harness.redis import RedisServer
from harness.redis_topologies import ClusterScene, SentinelScene
from harness.revocation import RelayedStack, Servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from harness.revocation import Outcome

TOKENS: Final = 20
CLIENTS: Final = 50
A_SECOND: Final = 200.0
PHASE_S: Final = 5.0


def auth_replicas(say: Callable[[str], None], outage_s: float) -> None:
    """Restart and freeze one of two replicas and stop PostgreSQL, under load, and print which requests failed.

    All tokens are known, and every worker has to validate each of them five times a second, except while PostgreSQL is
    stopped, when nothing can change.
    """
    with (
        Servers.running() as own,
        AuthReplicas.running(
            own.postgres, own.clickhouse, own.redis.url, own.folder, tokens=TOKENS, IBEX_AUTH_TIMEOUT="0.2"
        ) as stack,
    ):
        server = own.postgres.server
        faults: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "restarted with SIGTERM": (lambda: stack.restart(0, signal.SIGTERM), _nothing),
            "restarted after SIGKILL": (lambda: stack.restart(0, signal.SIGKILL), _nothing),
            f"frozen for {PHASE_S:.0f} s": (lambda: stack.freeze(0), lambda: stack.thaw(0)),
        }
        for name, (break_it, mend_it) in faults.items():
            with stack.changing():
                say(f"one of two auth replicas {name}: {_failures(stack, break_it, mend_it, PHASE_S)}")
        failures = _failures(stack, server.stop, server.start, outage_s)
        say(f"PostgreSQL stopped for {outage_s:.0f} s, two auth replicas: {failures}")


def _nothing() -> None:
    pass


def _failures(
    stack: AuthReplicas, break_it: Callable[[], object], mend_it: Callable[[], object], lasts_s: float
) -> str:
    with stack.load(CLIENTS, A_SECOND).running() as load:
        time.sleep(PHASE_S)
        began, asked = time.monotonic(), [stack.validations(number) for number in range(2)]
        break_it()
        time.sleep(lasts_s)
        mend_it()
        time.sleep(PHASE_S)
        statuses = load.statuses(began)
    validated = stack.validations(1) - asked[1]
    return f"{statuses.total()} requests, statuses {dict(statuses)}; the other replica validated {validated} tokens"


def revocations(tell: Callable[[str, list[Outcome]], None], tries: int) -> None:
    """Revoke a token during a fail-over of a Sentinel or Cluster, and while another region's Redis is cut off."""
    with Servers.running() as own:
        program = own.redis.program
        with ExitStack() as stack:
            scene = stack.enter_context(SentinelScene.running(program, _folder(own, "sentinel")))
            running = stack.enter_context(_stack(own, _folder(own, "by-sentinel"), IBEX_REDIS_URL=scene.url))
            tell("Sentinel, fail-over", [_revoked(running, scene.fail_over, scene.settle) for _ in range(tries)])
            kills = [_revoked(running, lambda: scene.primary().kill(), scene.settle) for _ in range(tries)]
            tell("Sentinel, the primary is killed", kills)
    with Servers.running() as own, ExitStack() as stack:
        cluster = stack.enter_context(ClusterScene.running(own.redis.program, _folder(own, "cluster")))
        running = stack.enter_context(_stack(own, _folder(own, "by-cluster"), IBEX_REDIS_URL=cluster.url))
        org_id = running.installation.organization.id
        kills = [_revoked(running, lambda: cluster.primary_of(org_id).kill(), cluster.settle) for _ in range(tries)]
        tell("Cluster, the organization's primary is killed", kills)
    with Servers.running() as own, ExitStack() as stack:
        first = stack.enter_context(_stack(own, _folder(own, "first")))
        redis = RedisServer.on_free_port(own.redis.program)
        stack.callback(redis.kill)
        redis.start()
        second = stack.enter_context(first.beside(redis, _folder(own, "second")))
        second.clients, second.a_second = CLIENTS, A_SECOND
        seen_there = replace(second, production=first.production)
        tell("in another region", [seen_there.revoke_under(by="operator") for _ in range(tries)])
        for how in ("cut", "stall"):
            outcomes = [_with_region_cut(seen_there, how) for _ in range(tries)]
            tell(f"in another region; this region's Redis {how}", outcomes)


def _folder(own: Servers, name: str) -> Path:
    folder = own.folder / name
    folder.mkdir()
    return folder


def _stack(own: Servers, folder: Path, **environ: str) -> AbstractContextManager[RelayedStack]:
    return RelayedStack.running(own.postgres, own.clickhouse, own.redis, folder, **environ)


def _revoked(stack: RelayedStack, break_it: Callable[[], object], mend_it: Callable[[], object]) -> Outcome:
    loaded = replace(stack, clients=CLIENTS, a_second=A_SECOND)
    return loaded.revoke_under(break_it, mend_it)


def _with_region_cut(stack: RelayedStack, how: str) -> Outcome:
    links = [stack.relays[link] for link in ("proxy-redis", "auth-redis")]

    def break_them() -> None:
        for link in links:
            getattr(link, how)()

    def mend_them() -> None:
        for link in links:
            link.heal()

    return stack.revoke_under(break_them, mend_them, by="operator")
