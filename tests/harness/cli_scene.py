"""Run the command line over in-memory adapters, and capture its output and exit code."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.memory.clock import ManualClock
from harness.memory.directives import InMemoryDirectives
from harness.memory.epochs import InMemoryEpochs
from harness.memory.identity import InMemoryIdentity
from harness.memory.ids import SequentialIds
from harness.memory.sessions import InMemorySessions
from harness.memory.traces import InMemoryTraces
from ibex.domain.directives.management import ManageDirectives
from ibex.domain.identity.management import ManageIdentity
from ibex.domain.identity.token_hash import TokenPeppers
from ibex.entrypoints.administration import Administration
from ibex.entrypoints.cli.invocation import Invocation
from ibex.entrypoints.cli.main import main
from ibex.entrypoints.home import FirstInstallation, Home

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    import httpx
    import pytest

    from ibex.entrypoints.diagnosis import DoctorCheck
    from ibex.entrypoints.settings import Settings


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The standard output, which must be one JSON document."""
        assert self.code == 0, self.err
        return json.loads(self.out)


class CliScene:
    """A folder, an environment and the use cases over in-memory adapters. ``run`` runs ``ibex`` with arguments."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clock, ids = ManualClock(), SequentialIds()
        self.clock = clock
        epochs = InMemoryEpochs(clock, SequentialIds(1))
        self.store = InMemoryIdentity()
        self.directives = InMemoryDirectives(self.store, clock, self.store.change_log)
        self.sessions = InMemorySessions(clock)
        self.traces = InMemoryTraces(clock)
        self.use_cases = Administration(
            identity=ManageIdentity(self.store, TokenPeppers({"k": bytes(range(16))}), epochs, clock, ids),
            directives=ManageDirectives(self.directives, epochs, clock, ids),
            sessions=self.sessions,
            traces=self.traces,
        )
        self.home = Home(folder / "home")
        self.environ: dict[str, str] = {}
        self.failure: Exception | None = None
        self.epoch_file: Path | None = None
        """The epoch's file that the last command would have replaced."""
        self.transport: httpx.BaseTransport | None = None
        self.doctor_checks: Sequence[DoctorCheck] = ()
        self.dotenv = folder / ".env"
        self._capsys = capsys

    def run(self, *arguments: str) -> Done:
        """Run a command in this process."""
        invocation = Invocation(
            self.home, self.environ, self._open, self.transport, str(self.dotenv), lambda *_: self.doctor_checks
        )
        code = main(list(arguments), invocation)
        captured = self._capsys.readouterr()
        return Done(code, captured.out, captured.err)

    def install(self, **changes: str) -> FirstInstallation:
        """Create in the folder what the first start creates."""
        values = {"org_id": "", "org_name": "acme", "agent_id": "", "agent_name": "assistant"}
        tokens = {"agent_token": "ibex_pat_agent", "admin_token": "ibex_pat_admin"}
        self.home.path.mkdir(exist_ok=True)
        installation = FirstInstallation(**{**values, **tokens, **changes})
        self.home.remember_installation(installation)
        return installation

    @asynccontextmanager
    async def _open(self, _settings: Settings, epoch_file: Path | None) -> AsyncIterator[Administration]:
        self.epoch_file = epoch_file
        if self.failure is not None:
            raise self.failure
        yield self.use_cases
