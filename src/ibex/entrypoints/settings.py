"""Settings: read once at start from environment variables, typed and frozen (docs/configuration.md).

Every field of ``Settings`` is one variable; its ``Variable`` says how it is read and what the reference page says.
``.env.example`` and ``docs/configuration.md`` are written from here by ``ibex.entrypoints.settings_reference``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING

from ibex.entrypoints.cache_settings import CacheSettings
from ibex.entrypoints.setting_values import (
    SECONDS,
    Secret,
    Variable,
    auth_addresses,
    delay,
    host_and_port,
    idle_seconds,
    insecure_servers,
    int_between,
    module_and_name,
    peppers,
    seconds,
    secret_url,
    service_token,
    setting,
    text,
    url,
)
from ibex.entrypoints.unsafe_settings import incomplete_tls, unsafe_credential

if TYPE_CHECKING:
    from collections.abc import Mapping


class SettingsError(Exception):
    """A variable has a value that it cannot have; the message names variable, value and what is allowed."""


class MissingSettingError(SettingsError):
    """Variables that are needed are not set; the message names each and says what it takes."""


class Environment(StrEnum):
    """Where this runs; production refuses what is only fit for development."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class JournalSync(StrEnum):
    """What a journaled exchange survives: the process's death, or a power loss as well."""

    NORMAL = "normal"
    FULL = "full"


POSTGRES_URL = "a postgresql:// URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CacheSettings):
    """All settings of a process. Durations are in seconds, sizes in bytes; None where a variable is not set."""

    env: Environment = setting(
        Environment.DEVELOPMENT,
        Variable(
            "IBEX_ENV",
            Environment,
            "development or production",
            "Production refuses development credentials, and reads no `.env`, which so cannot ask for it.",
        ),
    )
    allow_insecure: tuple[str, ...] = setting(
        (),
        Variable(
            "IBEX_ALLOW_INSECURE",
            insecure_servers,
            "redis, clickhouse, postgres, separated by commas",
            "The servers that production may use without a credential.",
        ),
    )
    host: str = setting(
        "127.0.0.1", Variable("IBEX_HOST", text, "an address or host name", "The address that the proxy listens on.")
    )
    port: int = setting(
        8080, Variable("IBEX_PORT", int_between(0, 65_535), "0 to 65535, 0 for any free port", "The proxy's port.")
    )
    log_level: str = setting(
        "info",
        Variable(
            "IBEX_LOG_LEVEL",
            lambda value: {"debug": "debug", "info": "info", "warning": "warning", "error": "error"}[value.lower()],
            "debug, info, warning or error",
            "The least severe log lines that are written.",
        ),
    )
    database_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_DATABASE_URL",
            secret_url("postgresql"),
            POSTGRES_URL,
            "PostgreSQL as the role ibex_app: directives, sessions, checkpoints.",
            is_secret=True,
        ),
    )
    auth_database_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_AUTH_DATABASE_URL",
            secret_url("postgresql"),
            POSTGRES_URL,
            "PostgreSQL as the role ibex_auth: organizations, users, agents, tokens.",
            is_secret=True,
        ),
    )
    owner_database_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_OWNER_DATABASE_URL",
            secret_url("postgresql"),
            POSTGRES_URL,
            "PostgreSQL as the owner of the schema; only `ibex migrate` uses it.",
            is_secret=True,
        ),
    )
    clickhouse_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_CLICKHOUSE_URL",
            secret_url("http", "https", "clickhouse", "clickhouses", "chdb"),
            "an http[s]://, clickhouse[s]:// or chdb:// URL",
            "ClickHouse, for traces; chdb:///folder is an engine in the process, for one process alone.",
            is_secret=True,
        ),
    )
    token_peppers: Secret[dict[str, bytes]] | None = setting(
        None,
        Variable(
            "IBEX_TOKEN_PEPPERS",
            peppers,
            "key_id:base64 of at least 16 bytes, several separated by commas, the newest last",
            "The keys under which tokens are hashed; rotate by adding one.",
            is_secret=True,
        ),
    )
    rate_limit_default_rpm: int = setting(
        600,
        Variable(
            "IBEX_RATE_LIMIT_DEFAULT_RPM",
            int_between(0, 1_000_000_000),
            "requests per minute, 0 for unlimited",
            "The limit of organizations that set none of their own.",
        ),
    )
    auth_address: str | None = setting(
        None,
        Variable(
            "IBEX_AUTH_ADDRESS",
            auth_addresses,
            "host:port or dns:///name:port, or several, separated by commas",
            "Where auth is asked over gRPC. Replicas are asked in turn: every address of a name, and every one that is "
            "listed. Without it identity is looked up in PostgreSQL, in this process.",
        ),
    )
    auth_timeout_s: float = setting(
        0.05, Variable("IBEX_AUTH_TIMEOUT", seconds, SECONDS, "The most that asking auth may take.")
    )
    auth_service_token: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_AUTH_SERVICE_TOKEN",
            service_token,
            "at least 32 characters",
            "The proxy's own credential at auth; the same at both.",
            is_secret=True,
        ),
    )
    auth_ca_file: str | None = setting(
        None, Variable("IBEX_AUTH_CA_FILE", text, "a PEM file", "Auth must show a certificate of this authority: TLS.")
    )
    auth_client_cert_file: str | None = setting(
        None, Variable("IBEX_AUTH_CLIENT_CERT_FILE", text, "a PEM file", "The proxy's certificate: mutual TLS.")
    )
    auth_client_key_file: str | None = setting(
        None, Variable("IBEX_AUTH_CLIENT_KEY_FILE", text, "a PEM file", "Its private key.")
    )
    auth_listen: str = setting(
        "127.0.0.1:9091",
        Variable("IBEX_AUTH_LISTEN", host_and_port, "host:port, port 0 for any free one", "Where auth serves gRPC."),
    )
    auth_ops_listen: str = setting(
        "127.0.0.1:8081",
        Variable(
            "IBEX_AUTH_OPS_LISTEN",
            host_and_port,
            "host:port, port 0 for any free one",
            "Where auth serves /health, /ready and /metrics over HTTP.",
        ),
    )
    auth_cert_file: str | None = setting(
        None, Variable("IBEX_AUTH_CERT_FILE", text, "a PEM file", "Auth's certificate: TLS.")
    )
    auth_key_file: str | None = setting(None, Variable("IBEX_AUTH_KEY_FILE", text, "a PEM file", "Its private key."))
    auth_client_ca_file: str | None = setting(
        None,
        Variable(
            "IBEX_AUTH_CLIENT_CA_FILE", text, "a PEM file", "Clients of auth must show a certificate of this one."
        ),
    )
    redis_url: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_REDIS_URL",
            secret_url(
                "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"
            ),
            "a redis://, rediss:// or unix:// URL; redis+sentinel://host:port,…/service; redis+cluster://host:port,…",
            "Redis, for rate limits, and so that a change is in force at the next request.",
            is_secret=True,
        ),
    )
    redis_timeout_s: float = setting(
        0.05, Variable("IBEX_REDIS_TIMEOUT", seconds, SECONDS, "The most that a request waits for Redis.")
    )
    redis_credential_provider: str | None = setting(
        None,
        Variable(
            "IBEX_REDIS_CREDENTIAL_PROVIDER",
            module_and_name,
            "module:factory, a Python function that returns a CredentialProvider of redis-py",
            "Where each connection to Redis gets user and password, instead of from the URL.",
        ),
    )
    shutdown_timeout_s: float = setting(
        30.0, Variable("IBEX_SHUTDOWN_TIMEOUT", seconds, SECONDS, "How long running requests may finish on SIGTERM.")
    )
    error_docs_base: str | None = setting(
        None,
        Variable(
            "IBEX_ERROR_DOCS_BASE",
            url("http", "https"),
            "an http:// or https:// URL",
            "Errors carry a docs_url: this, a slash, and their code.",
        ),
    )
    journal_dir: str = setting(
        ".ibex/journal",
        Variable(
            "IBEX_JOURNAL_DIR",
            text,
            "a directory",
            "Where finished exchanges wait until both sinks have them; by default in the folder of `--home`.",
        ),
    )
    journal_sync: JournalSync = setting(
        JournalSync.NORMAL,
        Variable(
            "IBEX_JOURNAL_SYNC", JournalSync, "normal or full", "full survives power loss, at a third of the rate."
        ),
    )
    journal_max_bytes: int = setting(
        1 << 30,
        Variable("IBEX_JOURNAL_MAX_BYTES", int_between(65_536, 1 << 40), "65536 to 2^40 bytes", "The journal's bound."),
    )
    session_idle_timeout_s: float = setting(
        1_800.0,
        Variable(
            "IBEX_SESSION_IDLE_TIMEOUT",
            idle_seconds,
            "seconds, 60 to 31536000",
            "A session without a turn for so long is abandoned; a later turn makes it active again.",
        ),
    )
    trace_ttl_days: int = setting(
        90, Variable("IBEX_TRACE_TTL_DAYS", int_between(1, 36_500), "1 to 36500 days", "How long traces are kept.")
    )
    echo_delay_s: float = setting(
        0.0, Variable("IBEX_ECHO_DELAY", delay, "seconds, 0 to 86400", "How long the echo provider thinks.")
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
        settings.refuse_incomplete_tls()
        settings.refuse_small_body_budget()
        settings.refuse_unsafe_production(environ)
        return settings

    def refuse_small_body_budget(self) -> None:
        """Raise ``SettingsError`` if the reserved quarter of the budget is smaller than the largest body."""
        least = 4 * self.max_request_body_bytes
        if self.body_budget_bytes < least:
            raise SettingsError(
                f"IBEX_BODY_BUDGET_BYTES is {self.body_budget_bytes}; it must be at least {least}, 4 times "
                "IBEX_MAX_REQUEST_BODY_BYTES, so that a quarter of it fits the largest body."
            )

    def refuse_incomplete_tls(self) -> None:
        """Raise ``SettingsError`` if a TLS file between proxy and auth is set without another that it needs."""
        wrong = incomplete_tls(self, variables())
        if wrong is not None:
            raise SettingsError(wrong)

    def refuse_unsafe_production(self, environ: Mapping[str, str]) -> None:
        """Raise ``SettingsError`` if production lacks a credential or has a weak one.

        ``environ`` is the environment, which client libraries read themselves.
        """
        if self.env is not Environment.PRODUCTION:
            return
        if self.auth_address is not None and self.auth_service_token is None and self.auth_client_cert_file is None:
            raise MissingSettingError(
                "IBEX_AUTH_SERVICE_TOKEN is not set. With IBEX_ENV=production a proxy needs it, or a client certificate"
                " (IBEX_AUTH_CLIENT_CERT_FILE), to authenticate to auth."
            )
        wrong = unsafe_credential(self, variables(), self.allow_insecure, environ)
        if wrong is not None:
            raise SettingsError(wrong)

    def require_service_identity(self) -> None:
        """Raise ``MissingSettingError`` if auth in production has no way to authenticate proxies."""
        has_either = self.auth_service_token is not None or self.auth_client_ca_file is not None
        if self.env is Environment.PRODUCTION and not has_either:
            raise MissingSettingError(
                "IBEX_AUTH_SERVICE_TOKEN is not set. With IBEX_ENV=production auth needs it, or client certificates"
                " (IBEX_AUTH_CLIENT_CA_FILE): without either, any client that can connect may validate tokens."
            )

    def require_provider(self) -> None:
        """Raise ``MissingSettingError`` if production lacks the provider's key."""
        if self.env is Environment.PRODUCTION and self.openai_api_key is None:
            raise MissingSettingError("OPENAI_API_KEY is not set; IBEX_ENV=production needs a provider key.")

    def require(self, *names: str) -> None:
        """Raise ``MissingSettingError`` for those of these settings, by field name, that are not set: a line each."""
        missing = [
            f"{variable.name} is not set; it takes {variable.allowed}. {variable.meaning}"
            for name, variable in variables()
            if name in names and getattr(self, name) is None
        ]
        if missing:
            raise MissingSettingError("\n".join(missing))


def variables() -> tuple[tuple[str, Variable], ...]:
    """Return every setting's field name with its variable, in order."""
    return tuple((f.name, f.metadata["variable"]) for f in fields(Settings))
