"""One attack from its start to the moment at which the victim is served again."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from urllib.request import Request, urlopen

from benchmarks.attacks.newcomer import TRIES, served_newcomers
from benchmarks.attacks.observing import Watch, count, loop_lag, memory_of, most_descriptors, rates
from benchmarks.attacks.programs import Program
from benchmarks.attacks.tally import first_close_s
from benchmarks.attacks.verdict import summary, withstood
from benchmarks.attacks.victim import PATIENCE_S, Plan, Sample
from benchmarks.attacks.wire import CHAT, bearer, chat_body

if TYPE_CHECKING:
    from benchmarks.attacks.catalogue import Attack
    from benchmarks.attacks.laboratory import Laboratory, Running

WARM_UP_S: Final = 2.0
_TELLS_WITHIN_S: Final = 20.0
_BEGINS_WITHIN_S: Final = 30.0
_BEGIN_POLL_S: Final = 0.05
_HEALTHY_WITHIN_S: Final = 90.0
_IN_A_ROW: Final = 10
_POLL_S: Final = 1.0
_SETTLED_S: Final = 3.0
_HELD_S: Final = 1.0


def measure(laboratory: Laboratory, attack: Attack) -> dict[str, Any]:
    """Run one attack and return the observations."""
    options = laboratory.options
    with laboratory.running(attack) as running, ExitStack() as stack:
        plan = Plan(running.port, laboratory.victim.token, laboratory.unused, options.rate, attack.mix)
        victim = stack.enter_context(Program("victim", first_line=plan.to_json()))
        _requests(victim, WARM_UP_S)
        memory_before, first = memory_of(running.workers), count(running)
        before = summary(_requests(victim, options.before))
        second = count(running)
        watch = stack.enter_context(Watch(running))
        target = json.dumps(asdict(laboratory.target(running)))
        attacker = stack.enter_context(Program("attacker", attack.name, str(options.nice), first_line=target))
        _wait_for_begin(attacker)
        began = time.monotonic()
        during = summary(_requests(victim, options.seconds))
        third, newcomers = count(running), served_newcomers(running.grpc)
        tally = _wait_for_release(attacker, attack, began, options.release)
        watched = time.monotonic() - began
        attacker.end()
        healthy = _healthy_after(running, laboratory.victim.token)
        time.sleep(_SETTLED_S)  # nothing signals when a server has noticed that clients are gone
        return {
            "name": attack.name,
            "what": attack.what,
            "holds": attack.holds,
            "victim": {"before": before, "during": during},
            "newcomers": {"served": newcomers, "tried": TRIES},
            "withstood": withstood(before, during) and newcomers == TRIES,
            "attacker": tally,
            "watched_s": round(watched, 1),
            "peaks": asdict(watch.peaks),
            "memory_before_mb": round(memory_before, 1),
            "descriptors_after": most_descriptors(running.workers),
            "rates": {"before": rates(first, second), "during": rates(second, third)},
            "loop_lag": loop_lag(second, third),
            "healthy_after_s": healthy,
            "notes": running.notes,
        }


def _requests(victim: Program, seconds: float) -> list[Sample]:
    """Let the victim send requests, and return the samples."""
    line = victim.ask(f"{seconds}\n".strip(), seconds + PATIENCE_S + _TELLS_WITHIN_S)
    if not line:
        raise RuntimeError("the victim's process did not answer")
    return [Sample(*told) for told in json.loads(line)]


def _wait_for_begin(attacker: Program) -> None:
    """Return once the attacker has opened its first connection. A program takes a while to start."""
    deadline = time.monotonic() + _BEGINS_WITHIN_S
    while time.monotonic() < deadline:
        tally = _tally(attacker)
        if tally is None or tally["failed"]:
            raise RuntimeError(f"the attacker has failed: {tally and tally['failed']}")
        if tally["opened"] or tally["not_opened"]:
            return
        time.sleep(_BEGIN_POLL_S)  # the attacker answers only on request
    raise RuntimeError("the attacker has not opened a connection")


def _wait_for_release(attacker: Program, attack: Attack, began: float, most_s: float) -> dict[str, Any] | None:
    """Return the attacker's tally; first wait until the server closes a connection that it has held, if any is held."""
    tally = _tally(attacker)
    while (
        attack.holds
        and tally is not None
        and tally["held"]
        and first_close_s(tally, _HELD_S) is None
        and time.monotonic() - began < most_s
    ):
        time.sleep(_POLL_S)  # the attacker answers only on request
        tally = _tally(attacker)
    return tally


def _tally(attacker: Program) -> dict[str, Any] | None:
    line = attacker.ask("tally", _TELLS_WITHIN_S)
    return json.loads(line) if line else None


def _healthy_after(running: Running, token: str) -> float | None:
    """Return after how many seconds requests on new connections are served in a row; None if that takes too long."""
    began = time.monotonic()
    served, first = 0, began
    while time.monotonic() - began < _HEALTHY_WITHIN_S:
        sent = time.monotonic()
        if _is_served(running.address, token):
            first = first if served else sent
            served += 1
            if served == _IN_A_ROW:
                return round(first - began, 2)
        else:
            served = 0
            time.sleep(0.1)
    return None


def _is_served(address: str, token: str) -> bool:
    headers = {**bearer(token), "content-type": "application/json"}
    asked = Request(f"{address}{CHAT}", data=chat_body("gpt-instant"), headers=headers)  # noqa: S310 - loopback
    with suppress(OSError), urlopen(asked, timeout=2) as answer:  # noqa: S310 - the same
        return bool(answer.read())
    return False
