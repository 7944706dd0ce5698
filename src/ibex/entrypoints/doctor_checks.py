"""What IBEX depends on, each looked at as IBEX itself uses it: with the same settings, roles and credentials."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from ibex.adapters.grpc.channel import CredentialRefusedError
from ibex.adapters.journal.store import LEAST_ROOM_BYTES
from ibex.adapters.postgres.reachable import why_unreachable
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.token_hash import TokenPeppers
from ibex.domain.record.sessions import SinkUnavailableError
from ibex.domain.record.traces import NOBODY
from ibex.entrypoints.diagnosis import DoctorCheck, Result, Verdict, ok
from ibex.entrypoints.environments import OperatorAdapters, ProductionAdapters
from ibex.entrypoints.refused_key import KEY_REFUSED, last_refusal
from ibex.entrypoints.settings import Environment, variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from ibex.domain.identity.management import IdentityStore
    from ibex.entrypoints.settings import Settings

_HTTP_TIMEOUT_S: Final = 4.0
_OK: Final = 200
_NO_KEY_HERE: Final = (
    "OPENAI_API_KEY is not set here, and what the running proxy asks is not known from here; without a key it is echo"
)
_START_WITH_A_VALID_KEY: Final = "Start it with an OPENAI_API_KEY that the provider takes."
_PEPPER_IS_GONE: Final = (
    "Those tokens get 401. Add the pepper to IBEX_TOKEN_PEPPERS again, or revoke them and create others."
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
    ``journal`` is the folder of journals; ``log`` is the log of what runs on the folder, and ``token`` the agent's
    token of its first start, where there are any; ``transport`` is for tests.
    """

    start: str
    proxy: str | None
    journal: Path
    transport: httpx.AsyncBaseTransport | None = None
    log: Path | None = None
    token: str | None = field(default=None, repr=False)


def doctor_checks(settings: Settings, around: Surroundings) -> Sequence[DoctorCheck]:
    """Return what there is to look at, in the order in which things depend on each other."""
    doctor = _Doctor(settings, around)
    migrate = "`ibex migrate` brings the schema up to date; {} says where the server is, and as whom to connect."
    return (
        DoctorCheck("PostgreSQL", doctor.postgres, migrate.format("IBEX_DATABASE_URL")),
        DoctorCheck("identity", doctor.identity, migrate.format("IBEX_AUTH_DATABASE_URL")),
        DoctorCheck("ClickHouse", doctor.clickhouse, migrate.format("IBEX_CLICKHOUSE_URL")),
        DoctorCheck(
            "Redis", doctor.redis, "IBEX_REDIS_URL says where it is; requests are served without it meanwhile."
        ),
        DoctorCheck("auth", doctor.auth, "`ibex auth serve` starts it; IBEX_AUTH_ADDRESS says where it is."),
        DoctorCheck("provider", doctor.provider, "OPENAI_BASE_URL says where it is; is there a way out of here to it?"),
        DoctorCheck("journal", doctor.journal, "IBEX_JOURNAL_DIR must be a folder that IBEX may write to."),
        DoctorCheck("proxy", doctor.proxy, around.start),
    )


class _Doctor:
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
            identity = self._operator.identity()
            found = await identity.organizations()
            lost = await self._tokens_without_pepper(identity)
        if lost is not None:
            return lost
        if not found:
            return Result(Verdict.ADVICE, "there is no organization yet", "`ibex bootstrap` makes the first.")
        return ok(f"{_counted(len(found), 'organization')} can be read as ibex_auth")

    async def _tokens_without_pepper(self, identity: IdentityStore) -> Result | None:
        """Return a failure if there are live tokens that no pepper of these settings verifies."""
        secret = self._settings.token_peppers
        peppers = secret.reveal() if secret is not None else {}
        by_key = await identity.live_tokens_by_key(datetime.now(UTC))
        gone = {key: number for key, number in by_key.items() if key not in peppers}
        if gone:
            tokens = f"{_counted(sum(gone.values()), 'live token')} of the pepper {', '.join(sorted(gone))}"
            said = f"{tokens} cannot be verified: IBEX_TOKEN_PEPPERS has {', '.join(peppers)}"
            return Result(Verdict.FAILED, said, _PEPPER_IS_GONE)
        token = PersonalAccessToken.parse(self._around.token or "")
        stored = await identity.find_token(token.token_id) if token is not None else None
        if token is None or stored is None or stored[0].revoked_at is not None:
            return None
        if not TokenPeppers(peppers).matches(token, stored[0].key_id, stored[0].digest):
            said = f"ibex_pat_{token.token_id} cannot be verified: its pepper {stored[0].key_id} has changed"
            return Result(Verdict.FAILED, said, _PEPPER_IS_GONE)
        return None

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
                hint = "IBEX_AUTH_SERVICE_TOKEN must be the same here and where auth runs."
                return Result(Verdict.FAILED, refused.message, hint)
        return ok(f"it serves at {self._settings.auth_address}")

    async def provider(self) -> Result:
        key, base = self._settings.openai_api_key, self._settings.openai_base_url
        if key is None and self._settings.env is Environment.PRODUCTION:
            return Result(Verdict.ADVICE, "OPENAI_API_KEY is not set here", "`ibex serve` needs it in production.")
        if key is None:
            refused = await asyncio.to_thread(last_refusal, self._around.log) if self._around.log else None
            if refused is not None:
                said = f"the provider refused the running proxy's key ({refused.status}) at {refused.at}"
                return Result(Verdict.FAILED, said, _START_WITH_A_VALID_KEY)
            return Result(Verdict.ABSENT, _NO_KEY_HERE)
        own = {"Authorization": f"Bearer {key.reveal()}"}
        status, _ = await self._ask("GET", f"{base.rstrip('/')}/models", own)
        refused_as = status if status in KEY_REFUSED else None
        if refused_as is None:  # some servers list their models to everybody; none completes an empty request
            asked, _ = await self._ask("POST", f"{base.rstrip('/')}/chat/completions", own)
            refused_as = asked if asked in KEY_REFUSED else None
        if refused_as is not None:
            return Result(
                Verdict.FAILED, f"{base} refuses the key ({refused_as})", "OPENAI_API_KEY must be one of its keys."
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
        address = self._around.proxy
        if address is None:
            return Result(
                Verdict.ADVICE, "no proxy is known to run", f"{self._around.start} IBEX_URL says where one is."
            )
        try:
            status, report = await self._ask("GET", f"{address}/ready", {})
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

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, dict[str, dict[str, str]]]]:
        """Ask, in a POST with an empty JSON object, and return the status and the JSON object of the answer.

        The object is empty for anything else. Raises ``httpx.HTTPError``.
        """
        transport = self._around.transport
        async with httpx.AsyncClient(timeout=_HTTP_TIMEOUT_S, trust_env=False, transport=transport) as client:
            response = await client.request(method, url, headers=dict(headers), json={} if method == "POST" else None)
        try:
            content = response.json()
        except ValueError:
            content = None
        return response.status_code, content if isinstance(content, dict) else {}


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
    if free < LEAST_ROOM_BYTES:
        said = f"the disk of {folder} is full ({free // 1_024:,} KiB free): what requests leave is lost"
        return Result(Verdict.FAILED, said, "Make room there, or set IBEX_JOURNAL_DIR to a folder on another disk.")
    if free < max_bytes:
        said = f"{free // _MIB} MiB are free for {folder}, which may take {max_bytes // _MIB}"
        return Result(Verdict.ADVICE, said, "Make room, or set IBEX_JOURNAL_MAX_BYTES to less.")
    return ok(f"{folder} can be written to" if folder.exists() else f"{folder} can be made")
