"""An operator in the test's process who changes a directive, so that the time at which the change returns is known."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibex.entrypoints.administration import administration
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from uuid import UUID

    from ibex.domain.directives.management import DirectiveState, ManageDirectives


@dataclass(frozen=True, slots=True)
class Changed:
    """A change: the version in force since then, and when the call returned, in monotonic seconds."""

    version: int
    text: str
    returned: float


@dataclass(frozen=True, slots=True)
class DirectiveOperator:
    """Changes the directive of the first agent of the first organization, as ``ibex directive`` does."""

    environ: Mapping[str, str]

    def set(self, text: str) -> Changed:
        """Activate a new text."""
        return self._make(lambda directives, org, agent: directives.set(org, agent, text, author="tests"))

    def rollback(self, number: int) -> Changed:
        """Activate an earlier version."""
        return self._make(lambda directives, org, agent: directives.rollback(org, agent, number))

    def _make(self, change: Callable[[ManageDirectives, UUID, UUID], Awaitable[DirectiveState]]) -> Changed:
        async def run() -> Changed:
            async with administration(Settings.load(dict(self.environ))) as use_cases:
                organization = (await use_cases.identity.organizations())[0]
                agent = (await use_cases.identity.agents(organization.id))[0]
                state = await change(use_cases.directives, organization.id, agent.id)
                return Changed(state.version.number, state.version.text, time.monotonic())

        return asyncio.run(run())
