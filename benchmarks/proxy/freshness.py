"""Goal 10: how soon a trace can be queried, and whether the next request sees a changed directive and a revocation.

A change has returned before the next request is sent, on connections that had been used before, so that each worker has
some of them.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import httpx
from benchmarks.gate.record import traces_in_time
from benchmarks.gate.scene import Scene as Gate
from benchmarks.proxy.targets import ibex_name
from benchmarks.proxy.turns import say

from harness.directive_changes import DirectiveOperator
from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.permissions import AGENT_DEFAULT
from ibex.entrypoints.administration import administration
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from benchmarks.proxy.options import Options
    from benchmarks.proxy.targets import Scene, Target

    from ibex.domain.identity.model import PersonalAccessToken

WORKERS_MEASURED: Final = 2
_CONNECTIONS: Final = 8
_BODY: Final = {"model": "gpt-instant", "messages": [{"role": "user", "content": "What is an ibex?"}]}


def measure_freshness(scene: Scene, options: Options) -> dict[str, Any]:
    """Return milliseconds until the last trace is visible, and how many next requests did not see a change."""
    with scene.target(ibex_name(WORKERS_MEASURED)) as ibex:
        scene.generator.settle(ibex)
        (traces,) = traces_in_time(Gate(scene.stack, scene.provider.base_url, scene.generator))
        old_directive = [_change_directive(scene, ibex, number) for number in range(options.changes)]
        served_revoked = [_revoke(scene, ibex) for _ in range(options.changes)]
    found = {
        "trace_ms": traces.value,
        "trace_note": traces.note,
        "changes": options.changes,
        "requests": options.changes * _CONNECTIONS,
        "old_directive": sum(old_directive),
        "served_revoked": sum(served_revoked),
    }
    say(
        f"a trace is visible after {traces.figure}; of {found['requests']} next requests, {found['old_directive']} had"
        f" the old directive, {found['served_revoked']} were served with a revoked token"
    )
    return found


def _change_directive(scene: Scene, ibex: Target, number: int) -> int:
    """Return how many of the next requests did not have the new version."""
    operator = DirectiveOperator(scene.stack.production.environ)
    with _Clients(ibex, scene.stack.token) as clients:
        clients.ask()
        changed = operator.set(f"Be brief, for the {number}th time.")
        return sum(_version(answer) != changed.version for answer in clients.ask())


def _revoke(scene: Scene, ibex: Target) -> int:
    """Return how many of the next requests were served."""
    environ = scene.stack.production.environ
    org_id, token = asyncio.run(_create(environ))
    with _Clients(ibex, token.reveal()) as clients:
        refused = [answer.status_code for answer in clients.ask() if answer.status_code != httpx.codes.OK]
        if refused:
            raise RuntimeError(f"a live token was refused: {refused}")
        asyncio.run(_end(environ, org_id, token))
        return sum(answer.status_code == httpx.codes.OK for answer in clients.ask())


class _Clients(ExitStack):
    """Clients with a connection each."""

    def __init__(self, ibex: Target, token: str) -> None:
        super().__init__()
        self._url = f"{ibex.base_url}/chat/completions"
        headers = {"authorization": f"Bearer {token}"}
        self._clients = [
            self.enter_context(httpx.Client(headers=headers, trust_env=False)) for _ in range(_CONNECTIONS)
        ]

    def ask(self) -> list[httpx.Response]:
        """Send one request on each connection, one after the other."""
        return [client.post(self._url, json=_BODY) for client in self._clients]


def _version(answer: httpx.Response) -> int:
    return int(answer.headers.get("x-ibex-directive", "0@").partition("@")[0])


async def _create(environ: Mapping[str, str]) -> tuple[UUID, PersonalAccessToken]:
    async with administration(Settings.load(environ)) as admin:
        organization = (await admin.identity.organizations())[0]
        agent = (await admin.identity.agents(organization.id))[0]
        grant = TokenGrant("revoked", AGENT_DEFAULT, agent_id=agent.id)
        return organization.id, await admin.identity.create_token(organization.id, grant)


async def _end(environ: Mapping[str, str], org_id: UUID, token: PersonalAccessToken) -> None:
    async with administration(Settings.load(environ)) as admin:
        await admin.identity.revoke_token(org_id, token.token_id)
