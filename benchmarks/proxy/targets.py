"""The measured targets: complete IBEX, nginx, the installed peers, and the provider alone.

All of them run during the whole benchmark and take turns. IBEX's proxy restarts for each of its turns, so that no turn
begins with another's pending delivery. A peer without a turn is stopped (SIGSTOP), so that it uses no processor time.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httpx
from benchmarks.proxy.gateways import GATEWAYS, LITELLM, NGINX, NGINX_SETTINGS
from benchmarks.proxy.generator import Generator
from benchmarks.proxy.installation import find_installation

from harness.cpu_time import tree
from harness.nginx import nginx, nginx_program
from harness.request_load import chat_request
from harness.servers import fast_provider_process
from harness.stack import stack_without_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.proxy.gateways import Gateway
    from benchmarks.proxy.installation import Installation

    from harness.stack import Stack

DIRECT: Final = "provider alone"
WORKERS: Final = "IBEX workers"
PROVIDER: Final = "provider"
EVENTS_A_SECOND: Final = 50
DRAIN_TIMEOUT_S: Final = 180
_RUST_HEADER: Final = "x-litellm-rust"


def ibex_name(workers: int) -> str:
    """Return the name of IBEX with this many workers in tables."""
    return f"IBEX, {workers} worker{'s' * (workers > 1)}"


@dataclass(frozen=True, slots=True)
class Target:
    """A server of chat completions: its base URL, the headers to send, and its processes."""

    name: str
    base_url: str
    headers: Mapping[str, str]
    groups: Mapping[str, Sequence[int]]
    workers: Sequence[int] = ()
    """The processes that serve, by id: one or several."""

    def request(self, model: str, *, content: str = "What is an ibex? " * 10, stream: bool = False) -> bytes:
        """Return a request for a model of the provider, with a body of some 250 bytes unless a content is given."""
        return chat_request(self.base_url, model, self.headers, content=content, stream=stream)


@dataclass(slots=True)
class Scene:
    """Everything that runs during the measurements."""

    stack: Stack
    provider: Target
    generator: Generator
    installation: Installation
    others: dict[str, Target] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    """How each peer runs, by name."""
    drained_s: float = 0.0
    """How long the last proxy took to deliver what it had left, and to end."""

    @contextmanager
    def target(self, name: str) -> Iterator[Target]:
        """Give a target its turn; the name of IBEX is that of ``ibex_name``."""
        if name == DIRECT:
            yield self.provider
        elif name in self.others:
            with _awake(self.others[name]) as other:
                yield other
        else:
            with self.ibex(int(name.split()[1])) as ibex:
                yield ibex

    @contextmanager
    def ibex(self, workers: int, **environ: str) -> Iterator[Target]:
        """Start the proxy over the running servers, and stop it once it has delivered its journal."""
        production = self.stack.production
        address = self.stack.address = production.start_proxy(workers, **environ)
        proxy = production.processes[-1]
        proxy.ignore_output()
        bearer = {"authorization": f"Bearer {self.stack.token}"}
        pids = self.stack.worker_pids()
        groups = {WORKERS: [proxy.process.pid], **self._servers(), PROVIDER: self.provider.groups[PROVIDER]}
        try:
            yield Target(ibex_name(workers), f"{address}/v1", bearer, groups, pids)
        finally:
            self.drained_s = production.stop_latest(DRAIN_TIMEOUT_S)

    def _servers(self) -> dict[str, list[int]]:
        stack = self.stack
        redis, auth = stack.redis.process, stack.production.processes[0].process
        return {
            "auth": [auth.pid],
            "PostgreSQL": [stack.postgres.server.pid or 0],
            "Redis": [redis.pid] if redis else [],
            "ClickHouse": [stack.engine.pid or 0],
        }


@contextmanager
def scene(*, peers: bool, stream_seconds: float) -> Iterator[Scene]:
    """Start everything but IBEX's proxy, and stop it at the end."""
    with ExitStack() as stack:
        events = ("--events", str(round(stream_seconds * EVENTS_A_SECOND)), "--events-a-second", str(EVENTS_A_SECOND))
        url, pid = stack.enter_context(fast_provider_process("--processes", "2", *events))
        provider = Target(DIRECT, url, {}, {PROVIDER: [pid]})
        generator = stack.enter_context(Generator())
        installation = find_installation()
        ibex = stack.enter_context(stack_without_proxy(url, python=installation.python))
        made = Scene(ibex, provider, generator, installation)
        if nginx_program() is None:
            made.missing.append(NGINX)
        else:
            base_url, pid = stack.enter_context(nginx(url, buffering=False))
            made.others[NGINX] = _other(NGINX, base_url, {}, pid, provider)
            made.settings[NGINX] = NGINX_SETTINGS
        for gateway in GATEWAYS:
            name = gateway.name
            if not peers or not gateway.is_installed:
                made.missing.append(name)
                continue
            try:
                made.others[name] = stack.enter_context(_peer(gateway, provider, made))
            except RuntimeError as error:
                made.missing.append(f"{name} ({str(error).splitlines()[0]})")
        yield made


@contextmanager
def _peer(gateway: Gateway, provider: Target, made: Scene) -> Iterator[Target]:
    headers = gateway.headers(provider.base_url)
    with gateway.peer(provider.base_url).process({}, provider.base_url) as (base_url, pid):
        target = _other(gateway.name, base_url, headers, pid, provider)
        made.settings[gateway.name] = f"{gateway.settings}{_rust_core(target)}"
        os.killpg(pid, signal.SIGSTOP)
        try:
            yield target
        finally:
            os.killpg(pid, signal.SIGCONT)


def _rust_core(target: Target) -> str:
    """Return for LiteLLM whether its Rust core served a completion, which it says in a header; else an empty string."""
    if target.name != LITELLM:
        return ""
    body = {"model": "gpt-instant", "messages": [{"role": "user", "content": "What is an ibex?"}]}
    url = f"{target.base_url}/chat/completions"
    answer = httpx.post(url, json=body, headers=dict(target.headers), timeout=30, trust_env=False)
    served = answer.headers.get(_RUST_HEADER) == "true"
    return "; it serves these requests" if served else "; this version serves these requests with its Python part"


def _other(name: str, base_url: str, headers: Mapping[str, str], pid: int, provider: Target) -> Target:
    return Target(name, base_url, headers, {name: [pid], PROVIDER: provider.groups[PROVIDER]}, tree(pid))


@contextmanager
def _awake(target: Target) -> Iterator[Target]:
    if target.name == NGINX:  # it uses no processor time when it is idle
        yield target
        return
    (group,) = target.groups[target.name]
    os.killpg(group, signal.SIGCONT)
    try:
        yield target
    finally:
        os.killpg(group, signal.SIGSTOP)
