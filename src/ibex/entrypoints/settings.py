"""Settings: read once at start from environment variables, typed and frozen (spec 14).

Every field of ``Settings`` is one variable; its ``Variable`` says how it is read and what the reference page says.
``.env.example`` and ``docs/configuration.md`` are written from here by ``ibex.entrypoints.settings_reference``.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class SettingsError(Exception):
    """A variable has a value that it cannot have; the message names variable, value and what is allowed."""


class MissingSettingError(SettingsError):
    """A variable that is needed is not set; the message names it and says what it takes."""


class Environment(StrEnum):
    """Where this runs; production refuses what is only fit for development."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class JournalSync(StrEnum):
    """What a journaled exchange survives: the process's death, or a power loss as well."""

    NORMAL = "normal"
    FULL = "full"


class Secret(Generic[T]):
    """A value that shows itself through ``reveal()`` only."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return "<Secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Variable:
    """How one setting is read: ``parse`` raises ``ValueError``; ``allowed`` says what it takes, in words."""

    name: str
    parse: Callable[[str], Any]
    allowed: str
    meaning: str
    is_secret: bool = False


def _variable(default: Any, variable: Variable) -> Any:
    return field(default=default, metadata={"variable": variable})


def _text(value: str) -> str:
    if not value:
        raise ValueError
    return value


def _int_between(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 < number <= 86_400:  # noqa: PLR2004 - a day
        raise ValueError
    return number


def _delay(value: str) -> float:
    return 0.0 if float(value) == 0 else _seconds(value)


def _on_off(value: str) -> bool:
    return {"on": True, "off": False}[value.lower()]


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.partition("://")[0] not in schemes:
            raise ValueError
        return value

    return parse


def _secret_url(*schemes: str) -> Callable[[str], Secret[str]]:
    parse = _url(*schemes)
    return lambda value: Secret(parse(value))


def _secret_text(value: str) -> Secret[str]:
    return Secret(_text(value))


def _globs(value: str) -> tuple[str, ...]:
    patterns = tuple(part.strip() for part in value.split(",") if part.strip())
    if not patterns:
        raise ValueError
    return patterns


def _peppers(value: str) -> Secret[dict[str, bytes]]:
    peppers = {}
    for part in value.split(","):
        key_id, _, encoded = part.strip().partition(":")
        try:
            pepper = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError from None
        if not key_id or len(pepper) < 16:  # noqa: PLR2004 - see TokenPeppers
            raise ValueError
        peppers[key_id] = pepper
    return Secret(peppers)


SECONDS = "seconds, more than 0 and at most 86400"
POSTGRES_URL = "a postgresql:// URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a process. Durations are in seconds, sizes in bytes; None where a variable is not set."""

    env: Environment = _variable(
        Environment.DEVELOPMENT,
        Variable("IBEX_ENV", Environment, "development or production", "Production refuses development credentials."),
    )
    host: str = _variable(
        "127.0.0.1", Variable("IBEX_HOST", _text, "an address or host name", "The address that the proxy listens on.")
    )
    port: int = _variable(
        8080, Variable("IBEX_PORT", _int_between(0, 65_535), "0 to 65535, 0 for any free port", "The proxy's port.")
    )
    log_level: str = _variable(
        "info",
        Variable(
            "IBEX_LOG_LEVEL",
            lambda value: {"debug": "debug", "info": "info", "warning": "warning", "error": "error"}[value.lower()],
            "debug, info, warning or error",
            "The least severe log lines that are written.",
        ),
    )
    database_url: Secret[str] | None = _variable(
        None,
        Variable(
            "IBEX_DATABASE_URL",
            _secret_url("postgresql"),
            POSTGRES_URL,
            "PostgreSQL as the role ibex_app: directives, sessions, checkpoints.",
            is_secret=True,
        ),
    )
    auth_database_url: Secret[str] | None = _variable(
        None,
        Variable(
            "IBEX_AUTH_DATABASE_URL",
            _secret_url("postgresql"),
            POSTGRES_URL,
            "PostgreSQL as the role ibex_auth: organizations, users, agents, tokens.",
            is_secret=True,
        ),
    )
    owner_database_url: Secret[str] | None = _variable(
        None,
        Variable(
            "IBEX_OWNER_DATABASE_URL",
            _secret_url("postgresql"),
            POSTGRES_URL,
            "PostgreSQL as the owner of the schema; only `ibex migrate` uses it.",
            is_secret=True,
        ),
    )
    clickhouse_url: Secret[str] | None = _variable(
        None,
        Variable(
            "IBEX_CLICKHOUSE_URL",
            _secret_url("http", "https", "clickhouse", "clickhouses", "chdb"),
            "an http://, https:// or chdb:// URL",
            "ClickHouse, for traces.",
            is_secret=True,
        ),
    )
    token_peppers: Secret[dict[str, bytes]] | None = _variable(
        None,
        Variable(
            "IBEX_TOKEN_PEPPERS",
            _peppers,
            "key_id:base64 of at least 16 bytes, several separated by commas, the newest last",
            "The keys under which tokens are hashed; rotate by adding one.",
            is_secret=True,
        ),
    )
    rate_limit_default_rpm: int = _variable(
        600,
        Variable(
            "IBEX_RATE_LIMIT_DEFAULT_RPM",
            _int_between(0, 1_000_000_000),
            "requests per minute, 0 for unlimited",
            "The limit of organizations that set none of their own.",
        ),
    )
    auth_cache_size: int = _variable(
        5_000,
        Variable(
            "IBEX_AUTH_CACHE_SIZE",
            _int_between(1, 1_000_000),
            "1 to 1000000 entries",
            "How many tokens, agents and directives each a worker remembers.",
        ),
    )
    auth_stale_if_error_s: float = _variable(
        300.0,
        Variable(
            "IBEX_AUTH_STALE_IF_ERROR",
            _delay,
            "seconds, 0 to 86400",
            "How long a proven entry is served while auth cannot reach its database.",
        ),
    )
    directive_cache_ttl_s: float = _variable(
        60.0,
        Variable("IBEX_DIRECTIVE_CACHE_TTL", _seconds, SECONDS, "How long a directive is remembered, changes apart."),
    )
    max_request_body_bytes: int = _variable(
        10 * 1024 * 1024,
        Variable(
            "IBEX_MAX_REQUEST_BODY_BYTES",
            _int_between(1_024, 1 << 30),
            "1024 to 1073741824 bytes",
            "Larger request bodies are refused with 413.",
        ),
    )
    client_stall_timeout_s: float = _variable(
        60.0,
        Variable("IBEX_CLIENT_STALL_TIMEOUT", _seconds, SECONDS, "A client that reads nothing for so long is cut off."),
    )
    shutdown_timeout_s: float = _variable(
        30.0, Variable("IBEX_SHUTDOWN_TIMEOUT", _seconds, SECONDS, "How long running requests may finish on SIGTERM.")
    )
    error_docs_base: str | None = _variable(
        None,
        Variable(
            "IBEX_ERROR_DOCS_BASE",
            _url("http", "https"),
            "an http:// or https:// URL",
            "Errors carry a docs_url: this, a slash, and their code.",
        ),
    )
    journal_dir: str = _variable(
        ".ibex/journal",
        Variable("IBEX_JOURNAL_DIR", _text, "a directory", "Where finished exchanges wait until both sinks have them."),
    )
    journal_sync: JournalSync = _variable(
        JournalSync.NORMAL,
        Variable(
            "IBEX_JOURNAL_SYNC", JournalSync, "normal or full", "full survives power loss, at a third of the rate."
        ),
    )
    journal_max_bytes: int = _variable(
        1 << 30,
        Variable(
            "IBEX_JOURNAL_MAX_BYTES", _int_between(65_536, 1 << 40), "65536 to 2^40 bytes", "The journal's bound."
        ),
    )
    trace_ttl_days: int = _variable(
        90, Variable("IBEX_TRACE_TTL_DAYS", _int_between(1, 36_500), "1 to 36500 days", "How long traces are kept.")
    )
    openai_api_key: Secret[str] | None = _variable(
        None,
        Variable(
            "OPENAI_API_KEY",
            _secret_text,
            "OpenAI's API key",
            "Without it the built-in echo provider answers (development only).",
            is_secret=True,
        ),
    )
    openai_base_url: str = _variable(
        "https://api.openai.com/v1",
        Variable(
            "OPENAI_BASE_URL", _url("http", "https"), "an http:// or https:// URL", "Where OpenAI's API is spoken."
        ),
    )
    openai_models: tuple[str, ...] = _variable(
        ("gpt-*", "chatgpt-*", "o[0-9]*"),
        Variable("IBEX_OPENAI_MODELS", _globs, "model names or globs, separated by commas", "The models routed there."),
    )
    openai_request_timeout_s: float = _variable(
        120.0, Variable("OPENAI_REQUEST_TIMEOUT", _seconds, SECONDS, "The most a request may take, retries included.")
    )
    openai_connect_timeout_s: float = _variable(
        5.0, Variable("IBEX_OPENAI_CONNECT_TIMEOUT", _seconds, SECONDS, "The most a connection may take.")
    )
    openai_first_byte_timeout_s: float = _variable(
        120.0,
        Variable("IBEX_OPENAI_FIRST_BYTE_TIMEOUT", _seconds, SECONDS, "From a try to the first byte of its answer."),
    )
    openai_idle_timeout_s: float = _variable(
        60.0, Variable("IBEX_OPENAI_IDLE_TIMEOUT", _seconds, SECONDS, "The longest silence within an answer.")
    )
    openai_max_retries: int = _variable(
        3, Variable("OPENAI_MAX_RETRIES", _int_between(0, 10), "0 to 10", "Tries after the first one.")
    )
    openai_retry_base_delay_s: float = _variable(
        0.5, Variable("OPENAI_RETRY_BASE_DELAY", _seconds, SECONDS, "The first retry's delay; it doubles each time.")
    )
    openai_stream_usage: bool = _variable(
        True,  # noqa: FBT003 - a default, as dataclasses.field takes it
        Variable(
            "IBEX_OPENAI_STREAM_USAGE",
            _on_off,
            "on or off",
            "off for servers that refuse stream_options.include_usage.",
        ),
    )
    echo_delay_s: float = _variable(
        0.0, Variable("IBEX_ECHO_DELAY", _delay, "seconds, 0 to 86400", "How long the echo provider thinks.")
    )

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings; an empty variable counts as not set. Raises ``SettingsError`` for a wrong value."""
        values = {}
        for name, variable in variables():
            raw = environ.get(variable.name, "").strip()
            if not raw:
                continue
            try:
                values[name] = variable.parse(raw)
            except (ValueError, KeyError):
                shown = "(a secret, not shown)" if variable.is_secret else repr(raw)
                raise SettingsError(f"{variable.name} is {shown}; allowed: {variable.allowed}.") from None
        settings = cls(**values)
        settings.refuse_unsafe_production()
        return settings

    def refuse_unsafe_production(self) -> None:
        """Raise ``SettingsError`` where production lacks what it must have."""
        if self.env is not Environment.PRODUCTION:
            return
        if self.openai_api_key is None:
            raise SettingsError("OPENAI_API_KEY is not set; IBEX_ENV=production needs a provider key.")

    def require(self, *names: str) -> None:
        """Raise ``MissingSettingError`` if one of these settings, given by field name, is not set."""
        for name, variable in variables():
            if name in names and getattr(self, name) is None:
                raise MissingSettingError(
                    f"{variable.name} is not set; it takes {variable.allowed}. {variable.meaning}"
                )


def variables() -> tuple[tuple[str, Variable], ...]:
    """Return every setting's field name with its variable, in order."""
    return tuple((f.name, f.metadata["variable"]) for f in fields(Settings))
