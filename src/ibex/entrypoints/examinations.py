"""What IBEX depends on, each looked at as IBEX itself uses it: with the same settings, roles and credentials."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from ibex.adapters.grpc.channel import CredentialRefusedError
from ibex.adapters.postgres.reachable import why_unreachable
from ibex.domain.sessions import SinkUnavailableError
from ibex.domain.traces import NOBODY
from ibex.entrypoints.diagnosis import Examination, Result, Verdict, ok
from ibex.entrypoints.environments import OperatorAdapters, ProductionAdapters
from ibex.entrypoints.settings import Environment, variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from ibex.entrypoints.settings import Settings

_HTTP_TIMEOUT_S: Final = 4.0
_OK: Final = 200
_KEY_REFUSED: Final = (401, 403)
_NO_KEY_HERE: Final = (
    "OPENAI_API_KEY is not set here, and what the running proxy asks is not known from here; without a key it is echo"
)
_DEAD_LETTERS: Final = "*/dead-letters.jsonl"
_MIB: Final = 1 << 20


class _Resource(Protocol):
    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known besides the settings.

    ``start`` says how to start what does not run. ``proxy`` is the proxy's address, None where none is known;
    ``journal`` is the folder of journals; ``transport`` is for tests.
    """

    start: str
    proxy: str | None
    journal: Path
    transport: httpx.AsyncBaseTransport | None = None


def examinations(settings: Settings, around: Surroundings) -> Sequence[Examination]:
    """Return what there is to look at, in the order in which things depend on each other."""
    clinic = _Clinic(settings, around)
    migrate = "`ibex migrate` brings the schema up to date; {} says where the server is, and as whom to connect."
    return (
        Examination("PostgreSQL", clinic.postgres, migrate.format("IBEX_DATABASE_URL")),
        Examination("identity", clinic.identity, migrate.format("IBEX_AUTH_DATABASE_URL")),
        Examination("ClickHouse", clinic.clickhouse, migrate.format("IBEX_CLICKHOUSE_URL")),
        Examination(
            "Redis", clinic.redis, "IBEX_REDIS_URL says where it is; requests are served without it meanwhile."
        ),
        Examination("auth", clinic.auth, "`ibex auth serve` starts it; IBEX_AUTH_ADDRESS says where it is."),
        Examination("provider", clinic.provider, "OPENAI_BASE_URL says where it is; is there a way out of here to it?"),
        Examination("journal", clinic.journal, "IBEX_JOURNAL_DIR must be a folder that IBEX may write to."),
        Examination("proxy", clinic.proxy, around.start),
    )


class _Clinic:
    def __init__(self, settings: Settings, around: Surroundings) -> None:
        self._settings = settings
        self._around = around
        self._operator = OperatorAdapters()
        self._operator.settings.override(settings)

    async def postgres(self) -> Result:
        if self._settings.database_url is None:
            return self._not_set("database_url")
        reason = await why_unreachable(self._settings.database_url.reveal())
        if reason is not None:
            return Result(Verdict.FAILED, reason, "IBEX_DATABASE_URL says where it is, and as whom to connect.")
        async with _opened(self._operator.database()):
            await self._operator.directives().state(NOBODY, NOBODY)
            await self._operator.sessions().sessions(NOBODY, 1)
        return ok("directives and sessions can be read as ibex_app")

    async def identity(self) -> Result:
        if self._settings.auth_database_url is None:
            return self._not_set("auth_database_url")
        if self._settings.token_peppers is None:
            return self._not_set("token_peppers")
        reason = await why_unreachable(self._settings.auth_database_url.reveal())
        if reason is not None:
            return Result(Verdict.FAILED, reason, "IBEX_AUTH_DATABASE_URL says where it is, and as whom to connect.")
        async with _opened(self._operator.identity_database()):
            found = await self._operator.identity().organizations()
        if not found:
            return Result(Verdict.ADVICE, "there is no organization yet", "`ibex bootstrap` makes the first.")
        return ok(f"{len(found)} organization{'' if len(found) == 1 else 's'} can be read as ibex_auth")

    async def clickhouse(self) -> Result:
        if self._settings.clickhouse_url is None:
            return self._not_set("clickhouse_url")
        traces = self._operator.traces()
        async with _opened(traces):
            await traces.ping()
            try:
                await traces.tail(NOBODY, 1)
            except SinkUnavailableError as error:
                return Result(Verdict.FAILED, f"traces cannot be read: {error}", "`ibex migrate` makes the table.")
        return ok("traces can be read")

    async def redis(self) -> Result:
        link = self._operator.link()
        if link is None:
            needed = self._settings.env is Environment.PRODUCTION or self._settings.auth_address is not None
            if needed:
                return self._not_set("redis_url")
            return Result(Verdict.ABSENT, "IBEX_REDIS_URL is not set: limits and caches are each process's own")
        try:
            await link.ping()
            refused = await link.refused_commands()
        finally:
            await link.close()
        if refused:
            allowed = " ".join("~ibex:*" if name == "keys" else f"+{name.lower()}" for name in refused)
            named = ", ".join("reach keys that begin with ibex:" if name == "keys" else name for name in refused)
            return Result(Verdict.FAILED, f"its user may not: {named}", f"`ACL SETUSER <user> {allowed}` allows it.")
        return ok("it answers, and its user may run what requests need")

    async def auth(self) -> Result:
        if self._settings.auth_address is None:
            return Result(Verdict.ABSENT, "IBEX_AUTH_ADDRESS is not set: identity is looked up in PostgreSQL")
        adapters = ProductionAdapters()
        adapters.settings.override(self._settings)
        channel = adapters.channel()
        async with _opened(channel):
            await channel.connected()
            try:
                await channel.ping()
            except CredentialRefusedError as refused:
                remedy = "IBEX_AUTH_SERVICE_TOKEN must be the same here and where auth runs."
                return Result(Verdict.FAILED, refused.message, remedy)
        return ok(f"it serves at {self._settings.auth_address}")

    async def provider(self) -> Result:
        key, base = self._settings.openai_api_key, self._settings.openai_base_url
        if key is None and self._settings.env is Environment.PRODUCTION:
            return Result(Verdict.ADVICE, "OPENAI_API_KEY is not set here", "`ibex serve` needs it in production.")
        if key is None:
            return Result(Verdict.ABSENT, _NO_KEY_HERE)
        status, _ = await self._get(f"{base.rstrip('/')}/models", {"Authorization": f"Bearer {key.reveal()}"})
        if status in _KEY_REFUSED:
            return Result(
                Verdict.FAILED, f"{base} refuses the key ({status})", "OPENAI_API_KEY must be one of its keys."
            )
        if status != _OK:
            said = f"{base} answers {status} when asked for its models"
            return Result(
                Verdict.ADVICE, said, "Servers without such a list are none the worse; others may have a fault."
            )
        return ok(f"{base} takes the key")

    async def journal(self) -> Result:
        return await asyncio.to_thread(_journal, self._around.journal, self._settings.journal_max_bytes)

    async def proxy(self) -> Result:
        address = self._around.proxy or f"http://{self._settings.host}:{self._settings.port}"
        try:
            status, report = await self._get(f"{address}/ready", {})
        except httpx.HTTPError as error:
            said = f"none answers at {address} ({type(error).__name__})"
            return Result(Verdict.ADVICE, said, f"{self._around.start} IBEX_URL says where else one is.")
        checks = report.get("checks", {})
        bad = ", ".join(name for name, check in checks.items() if check.get("status") != "ok")
        if status != _OK or "status" not in report:
            said = f"{address} is not ready ({bad or status})"
            return Result(Verdict.FAILED, said, "What is not ok there is what to look after; its log says why.")
        if bad:
            said = f"{address} serves, but without {bad}"
            return Result(Verdict.ADVICE, said, "Requests are served, and what they leave waits; see docs/faults.md.")
        return ok(f"{address} is ready")

    def _not_set(self, name: str) -> Result:
        variable = dict(variables())[name]
        return Result(Verdict.FAILED, f"{variable.name} is not set", self._around.start)

    async def _get(self, url: str, headers: Mapping[str, str]) -> tuple[int, dict[str, dict[str, dict[str, str]]]]:
        """Return the status and the JSON object, which is empty for anything else. Raises ``httpx.HTTPError``."""
        transport = self._around.transport
        async with httpx.AsyncClient(timeout=_HTTP_TIMEOUT_S, trust_env=False, transport=transport) as client:
            response = await client.get(url, headers=dict(headers))
        try:
            content = response.json()
        except ValueError:
            content = None
        return response.status_code, content if isinstance(content, dict) else {}


@asynccontextmanager
async def _opened(resource: _Resource) -> AsyncIterator[None]:
    try:
        await resource.open()
        yield
    finally:
        await resource.close()


def _journal(folder: Path, max_bytes: int) -> Result:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Result(
            Verdict.FAILED, f"{existing} cannot be written to", "IBEX_JOURNAL_DIR must be a folder of IBEX's."
        )
    letters = [path for path in folder.glob(_DEAD_LETTERS) if path.stat().st_size]
    if letters:
        said = f"a database refused rows for good: {letters[0]}"
        return Result(
            Verdict.ADVICE, said, "Each line has the row and the reason; remove the file once it is dealt with."
        )
    free = shutil.disk_usage(existing).free
    if free < max_bytes:
        said = f"{free // _MIB} MiB are free for {folder}, which may take {max_bytes // _MIB}"
        return Result(Verdict.ADVICE, said, "Make room, or set IBEX_JOURNAL_MAX_BYTES to less.")
    return ok(f"{folder} can be written to" if folder.exists() else f"{folder} can be made")
