"""The checks of `ibex doctor`. Each uses a dependency as IBEX does: with the same settings, roles and credentials."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from ibex.adapters.grpc.channel import CredentialRefusedError
from ibex.adapters.http_client.not_connected import not_connected
from ibex.adapters.journal.directories import (
    IN_FLIGHT_LOG,
    JOURNAL,
    JournalDirectoryError,
    checked_root,
    journal_directories,
)
from ibex.adapters.journal.formats import newer_format
from ibex.adapters.journal.store import MIN_FREE_BYTES
from ibex.adapters.postgres.reachable import connection_failure
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.token_hash import TokenPeppers
from ibex.domain.record.traces import NIL_ID
from ibex.entrypoints.clickhouse_checks import check_clickhouse
from ibex.entrypoints.diagnosis import DoctorCheck, Result, Verdict, ok
from ibex.entrypoints.environments import OperatorAdapters, ProductionAdapters
from ibex.entrypoints.home import ECHO
from ibex.entrypoints.provider_log import KEY_REFUSED, last_failure
from ibex.entrypoints.settings import Environment, variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from ibex.domain.identity.management import IdentityStore
    from ibex.entrypoints.settings import Settings

_HTTP_TIMEOUT_S: Final = 4.0
_OK: Final = 200
_NO_KEY_HERE: Final = (
    "OPENAI_API_KEY is not set here, so the key of a running proxy cannot be checked (without a key it uses echo)"
)
_RESTART_WITH_VALID_KEY: Final = "Restart the proxy with an OPENAI_API_KEY that the provider accepts."
_PEPPER_IS_GONE: Final = (
    "Such tokens get 401. Restore the pepper in IBEX_TOKEN_PEPPERS, or revoke the tokens and create new ones."
)
_CHECK_NETWORK: Final = "Check OPENAI_BASE_URL, and the network from this machine to it."
_CHECK_CONNECTION: Final = "Check the host, port, user and password in {}."
_JOURNAL_DIR: Final = "Set IBEX_JOURNAL_DIR to a folder that IBEX can write to."
_DEAD_LETTERS: Final = "*/dead-letters.jsonl"
_MIB: Final = 1 << 20


class _Resource(Protocol):
    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class DoctorContext:
    """The inputs of the checks, in addition to the settings.

    ``start`` is the hint for a missing instance. ``proxy`` is the URL of the proxy, None if unknown. ``journal`` is the
    folder of the journals. ``log`` is the log of the running instance, ``provider`` its announced provider, and
    ``token`` its first agent's token; all are None if no instance runs. Tests set ``transport``.
    """

    start: str
    proxy: str | None
    journal: Path
    transport: httpx.AsyncBaseTransport | None = None
    log: Path | None = None
    provider: str | None = None
    token: str | None = field(default=None, repr=False)


def doctor_checks(settings: Settings, context: DoctorContext) -> Sequence[DoctorCheck]:
    """Return all checks, dependencies first."""
    doctor = _Doctor(settings, context)
    migrate = "Run `ibex migrate` to update the schema. If that does not help, check the host and the user in {}."
    return (
        DoctorCheck("PostgreSQL", doctor.postgres, migrate.format("IBEX_DATABASE_URL")),
        DoctorCheck("identity", doctor.identity, migrate.format("IBEX_AUTH_DATABASE_URL")),
        DoctorCheck("ClickHouse", doctor.clickhouse, migrate.format("IBEX_CLICKHOUSE_URL")),
        DoctorCheck("Redis", doctor.redis, "Check IBEX_REDIS_URL. Requests are served without Redis until it is back."),
        DoctorCheck("auth", doctor.auth, "Start auth with `ibex auth serve`, or check IBEX_AUTH_ADDRESS."),
        DoctorCheck("provider", doctor.provider, _CHECK_NETWORK),
        DoctorCheck("journal", doctor.journal, _JOURNAL_DIR),
        DoctorCheck("proxy", doctor.proxy, context.start),
    )


class _Doctor:
    def __init__(self, settings: Settings, context: DoctorContext) -> None:
        self._settings = settings
        self._context = context
        self._operator = OperatorAdapters()
        self._operator.settings.override(settings)

    async def postgres(self) -> Result:
        if self._settings.database_url is None:
            return self._not_set("database_url")
        reason = await connection_failure(self._settings.database_url.reveal())
        if reason is not None:
            return Result(Verdict.FAILED, reason, _CHECK_CONNECTION.format("IBEX_DATABASE_URL"))
        async with _opened(self._operator.database()):
            await self._operator.directives().state(NIL_ID, NIL_ID)
            await self._operator.sessions().sessions(NIL_ID, 1)
            await self._operator.sessions().check_append()
        return ok("directives and sessions can be read, and turns recorded, as ibex_app")

    async def identity(self) -> Result:
        if self._settings.auth_database_url is None:
            return self._not_set("auth_database_url")
        if self._settings.token_peppers is None:
            return self._not_set("token_peppers")
        reason = await connection_failure(self._settings.auth_database_url.reveal())
        if reason is not None:
            return Result(Verdict.FAILED, reason, _CHECK_CONNECTION.format("IBEX_AUTH_DATABASE_URL"))
        async with _opened(self._operator.identity_database()):
            identity = self._operator.identity()
            found = await identity.organizations()
            unverifiable = await self._tokens_without_pepper(identity)
        if unverifiable is not None:
            return unverifiable
        if not found:
            return Result(Verdict.ADVICE, "there is no organization yet", "Create the first one with `ibex bootstrap`.")
        return ok(f"{_counted(len(found), 'organization')} can be read as ibex_auth")

    async def _tokens_without_pepper(self, identity: IdentityStore) -> Result | None:
        """Return a failure if no pepper of the settings can verify some live tokens, else None."""
        secret = self._settings.token_peppers
        peppers = secret.reveal() if secret is not None else {}
        by_key = await identity.live_tokens_by_key(datetime.now(UTC))
        gone = {key: number for key, number in by_key.items() if key not in peppers}
        if gone:
            tokens = _counted(sum(gone.values()), "live token")
            keys = f"no pepper {', '.join(sorted(gone))}, only {', '.join(peppers)}"
            message = f"{tokens} cannot be verified: IBEX_TOKEN_PEPPERS has {keys}"
            return Result(Verdict.FAILED, message, _PEPPER_IS_GONE)
        token = PersonalAccessToken.parse(self._context.token or "")
        stored = await identity.find_token(token.token_id) if token is not None else None
        if token is None or stored is None or stored[0].revoked_at is not None:
            return None
        if not TokenPeppers(peppers).matches(token, stored[0].key_id, stored[0].digest):
            message = (
                f"ibex_pat_{token.token_id} cannot be verified: its pepper {stored[0].key_id} has another value now"
            )
            return Result(Verdict.FAILED, message, _PEPPER_IS_GONE)
        return None

    async def clickhouse(self) -> Result:
        if self._settings.clickhouse_url is None:
            return self._not_set("clickhouse_url")
        traces = self._operator.traces()
        url = self._settings.clickhouse_url.reveal()
        async with _opened(traces):
            return await check_clickhouse(traces, url, self._settings.clickhouse_cluster)

    async def redis(self) -> Result:
        link = self._operator.link()
        if link is None:
            needed = self._settings.env is Environment.PRODUCTION or self._settings.auth_address is not None
            if needed:
                return self._not_set("redis_url")
            return Result(Verdict.ABSENT, "IBEX_REDIS_URL is not set: each process has its own rate limits and caches")
        try:
            await link.ping()
            refused = await link.refused_commands()
        finally:
            await link.close()
        if refused:
            allowed = " ".join("~ibex:*" if name == "keys" else f"+{name.lower()}" for name in refused)
            named = ", ".join("access to keys that begin with ibex:" if name == "keys" else name for name in refused)
            message = f"the Redis user lacks permission for {named}"
            return Result(Verdict.FAILED, message, f"Run `ACL SETUSER <user> {allowed}` on Redis.")
        return ok("it answers, and its user has all permissions that IBEX needs")

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
                hint = "Set IBEX_AUTH_SERVICE_TOKEN to the same value here and on auth."
                return Result(Verdict.FAILED, refused.message, hint)
        return ok(f"it answers at {self._settings.auth_address}")

    async def provider(self) -> Result:
        key, base = self._settings.openai_api_key, self._settings.openai_base_url
        if key is None and self._settings.env is Environment.PRODUCTION:
            return Result(Verdict.ADVICE, "OPENAI_API_KEY is not set here", "`ibex serve` needs it in production.")
        if key is None:
            return await self._running_provider()
        own = {"authorization": f"Bearer {key.reveal()}"}
        own |= dict(self._settings.extra_headers.reveal())
        own = {name: value for name, value in own.items() if value}
        try:
            status, _ = await self._ask("GET", f"{base.rstrip('/')}/models", own)
        except httpx.TransportError as error:
            return _not_reached(error, base)
        refused_as = status if status in KEY_REFUSED else None
        if refused_as is None:  # some servers list models without a key, but none completes an empty request
            asked, _ = await self._ask("POST", f"{base.rstrip('/')}/chat/completions", own)
            refused_as = asked if asked in KEY_REFUSED else None
        if refused_as is not None:
            return Result(
                Verdict.FAILED, f"{base} refuses the key ({refused_as})", "Set OPENAI_API_KEY to a key that it accepts."
            )
        if status != _OK:
            message = f"{base}/models answers {status}"
            hint = "Ignore this if the server does not offer a list of models. Otherwise check OPENAI_BASE_URL."
            return Result(Verdict.ADVICE, message, hint)
        return ok(f"{base} accepts the key")

    async def _running_provider(self) -> Result:
        """Check the provider of the running proxy, without its key."""
        provider, log = self._context.provider, self._context.log
        if provider == ECHO:
            return ok("the running proxy uses echo")
        failed = await asyncio.to_thread(last_failure, log) if log is not None else None
        if failed is not None and failed.refused_as is not None:
            message = f"the provider refused the key of the running proxy ({failed.refused_as}) at {failed.at}"
            return Result(Verdict.FAILED, message, _RESTART_WITH_VALID_KEY)
        if provider is not None:
            try:
                await self._ask("GET", f"{provider.rstrip('/')}/models", {})
            except httpx.TransportError as error:
                return _not_reached(error, provider)
        if failed is not None:
            message = f"the last request of the running proxy failed at {failed.at}: {failed.connect_failure}"
            return Result(Verdict.ADVICE, message, _CHECK_NETWORK)
        if provider is not None:
            message = f"{provider} can be reached; OPENAI_API_KEY is not set here, so its key cannot be checked"
            return Result(Verdict.ABSENT, message)
        return Result(Verdict.ABSENT, _NO_KEY_HERE)

    async def journal(self) -> Result:
        return await asyncio.to_thread(_journal, self._context.journal, self._settings.journal_max_bytes)

    async def proxy(self) -> Result:
        address = self._context.proxy
        elsewhere = f"{self._context.start} To check a proxy elsewhere, set IBEX_URL or --url."
        if address is None:
            return Result(Verdict.ADVICE, "no running proxy was found", elsewhere)
        try:
            status, report = await self._ask("GET", f"{address}/ready", {})
        except httpx.HTTPError as error:
            message = f"no proxy answers at {address} ({type(error).__name__})"
            return Result(Verdict.ADVICE, message, elsewhere)
        checks = report.get("checks", {})
        bad = ", ".join(name for name, check in checks.items() if check.get("status") != "ok")
        if status != _OK or "status" not in report:
            message = f"{address} is not ready ({bad or status})"
            return Result(
                Verdict.FAILED, message, "Its log has the reason. If it is not an IBEX proxy, correct IBEX_URL."
            )
        if bad:
            message = f"{address} serves, but without {bad}"
            return Result(Verdict.ADVICE, message, "Requests are served. docs/faults.md lists the consequences.")
        return ok(f"{address} is ready")

    def _not_set(self, name: str) -> Result:
        variable = dict(variables())[name]
        return Result(Verdict.FAILED, f"{variable.name} is not set", self._context.start)

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, dict[str, dict[str, str]]]]:
        """Send a request and return the status and the JSON object of the response.

        A POST has an empty JSON object as its body. If the response is not a JSON object, an empty one is returned.
        Raises ``httpx.HTTPError``.
        """
        transport = self._context.transport
        async with httpx.AsyncClient(timeout=_HTTP_TIMEOUT_S, trust_env=False, transport=transport) as client:
            response = await client.request(method, url, headers=dict(headers), json={} if method == "POST" else None)
        try:
            content = response.json()
        except ValueError:
            content = None
        return response.status_code, content if isinstance(content, dict) else {}


def _not_reached(error: httpx.TransportError, base_url: str) -> Result:
    if not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return Result(Verdict.FAILED, f"{base_url} does not answer ({type(error).__name__})", _CHECK_NETWORK)
    url = httpx.URL(base_url)
    return Result(Verdict.FAILED, str(not_connected(error, url.host, url.port)), _CHECK_NETWORK)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@asynccontextmanager
async def _opened(resource: _Resource) -> AsyncIterator[None]:
    try:
        await resource.open()
        yield
    finally:
        await resource.close()


def _journal(configured: Path, max_bytes: int) -> Result:
    try:
        folder = checked_root(configured)  # a process that starts calls it too
    except JournalDirectoryError as wrong:
        return Result(Verdict.FAILED, str(wrong), _JOURNAL_DIR)
    advice = _left_in(folder)
    if advice is not None:
        return advice
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        message = f"the disk of {folder} is full ({free // 1_024:,} KiB free): new records of requests are lost"
        return Result(Verdict.FAILED, message, "Free some space, or set IBEX_JOURNAL_DIR to a folder on another disk.")
    if free < max_bytes:
        message = (
            f"the disk of {folder} has {free // _MIB} MiB free, but the journal can grow to {max_bytes // _MIB} MiB"
        )
        return Result(Verdict.ADVICE, message, "Free some space, or lower IBEX_JOURNAL_MAX_BYTES.")
    return ok(f"{folder} can be written to" if folder.exists() else f"{folder} can be created")


def _left_in(folder: Path) -> Result | None:
    """Return advice about what is left in journals, None if there is nothing to do."""
    letters = [path for path in folder.glob(_DEAD_LETTERS) if path.stat().st_size]
    if letters:
        message = f"a database permanently rejected rows, which are in {letters[0]}"
        hint = "Repair the cause and run `ibex journal replay`, or delete the file when you no longer need the rows."
        return Result(Verdict.ADVICE, message, hint)
    for directory in journal_directories(folder):
        newer = newer_format(directory / JOURNAL, directory / IN_FLIGHT_LOG)
        if newer is not None:
            message = f"the journal in {directory} is kept for a newer version of IBEX: {newer}"
            return Result(Verdict.ADVICE, message, "Deliver it with the newer version: `ibex journal drain`.")
    return None
