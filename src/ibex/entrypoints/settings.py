"""Settings: read once at start from environment variables, typed and frozen (docs/configuration.md).

Each field of ``Settings`` is one environment variable. Its ``Variable`` has the parser and the text of the reference.
``ibex.entrypoints.settings_reference`` generates ``.env.example`` and ``docs/configuration.md`` from these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ibex.entrypoints.database_settings import DatabaseSettings
from ibex.entrypoints.foreign_variables import is_of_opentelemetry, without_kubernetes
from ibex.entrypoints.setting_files import parsed, raw_value
from ibex.entrypoints.setting_values import (
    SECONDS,
    JournalSync,
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
    service_tokens,
    setting,
    text,
    url,
)
from ibex.entrypoints.unsafe_settings import incomplete_tls, unsafe_credential

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class SettingsError(Exception):
    """A setting is invalid. The message names the variable, its value unless it is a secret, and the allowed values."""


class MissingSettingError(SettingsError):
    """Required settings are not set. The message names each variable and the values that it accepts.

    ``names`` are the variables, empty if the message is about something else.
    """

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = names


class Environment(StrEnum):
    """The deployment environment. Production refuses development credentials."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(DatabaseSettings):
    """All settings of a process. Durations are in seconds, sizes in bytes. None means not set."""

    env: Environment = setting(
        Environment.DEVELOPMENT,
        Variable(
            "IBEX_ENV",
            Environment,
            "development or production",
            "`production` refuses development credentials and does not read `.env`, so set it in the environment.",
        ),
    )
    allow_insecure: tuple[str, ...] = setting(
        (),
        Variable(
            "IBEX_ALLOW_INSECURE",
            insecure_servers,
            "redis, clickhouse or postgres, several separated by commas",
            "The servers that production can use without a credential.",
        ),
    )
    host: str = setting(
        "127.0.0.1", Variable("IBEX_HOST", text, "an IP address or host name", "The address that the proxy listens on.")
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
            "The minimum severity of log lines.",
        ),
    )
    token_peppers: Secret[dict[str, bytes]] | None = setting(
        None,
        Variable(
            "IBEX_TOKEN_PEPPERS",
            peppers,
            "key_id:base64 of at least 16 bytes, several separated by commas",
            "The keys that tokens are hashed with. All verify tokens; the last is for new tokens. To rotate, insert a "
            "new key before the last one, and later move it to the end. Keep the old ones.",
            is_secret=True,
        ),
    )
    rate_limit_default_rpm: int = setting(
        600,
        Variable(
            "IBEX_RATE_LIMIT_DEFAULT_RPM",
            int_between(0, 1_000_000_000),
            "requests per minute, 0 for unlimited",
            "The rate limit of organizations that have none of their own.",
        ),
    )
    auth_address: str | None = setting(
        None,
        Variable(
            "IBEX_AUTH_ADDRESS",
            auth_addresses,
            "host:port or dns:///name:port, or several, separated by commas",
            "The gRPC address of auth. Calls rotate over all replicas: each listed address, and each address that a "
            "name resolves to. If not set, this process looks up identity in PostgreSQL itself.",
        ),
    )
    auth_timeout_s: float = setting(
        0.05, Variable("IBEX_AUTH_TIMEOUT", seconds, SECONDS, "The time limit of a call to auth, with its retry.")
    )
    auth_service_token: Secret[str] | None = setting(
        None,
        Variable(
            "IBEX_AUTH_SERVICE_TOKEN",
            service_token,
            "at least 32 characters",
            "The credential of the proxy at auth. Set the same value on both, or rotate with IBEX_AUTH_SERVICE_TOKENS.",
            is_secret=True,
        ),
    )
    auth_service_tokens: Secret[tuple[str, ...]] | None = setting(
        None,
        Variable(
            "IBEX_AUTH_SERVICE_TOKENS",
            service_tokens,
            "credentials of at least 32 characters, several separated by commas",
            "Replaces IBEX_AUTH_SERVICE_TOKEN during a rotation. Auth accepts each; a proxy presents the last.",
            is_secret=True,
        ),
    )
    auth_ca_file: str | None = setting(
        None, Variable("IBEX_AUTH_CA_FILE", text, "a PEM file", "The CA of auth's certificate. Enables TLS to auth.")
    )
    auth_client_cert_file: str | None = setting(
        None, Variable("IBEX_AUTH_CLIENT_CERT_FILE", text, "a PEM file", "The proxy's certificate, for mutual TLS.")
    )
    auth_client_key_file: str | None = setting(
        None,
        Variable("IBEX_AUTH_CLIENT_KEY_FILE", text, "a PEM file", "The private key of IBEX_AUTH_CLIENT_CERT_FILE."),
    )
    auth_listen: str = setting(
        "127.0.0.1:9091",
        Variable("IBEX_AUTH_LISTEN", host_and_port, "host:port, port 0 for any free port", "Auth's gRPC address."),
    )
    auth_ops_listen: str = setting(
        "127.0.0.1:8081",
        Variable(
            "IBEX_AUTH_OPS_LISTEN",
            host_and_port,
            "host:port, port 0 for any free port",
            "Auth's HTTP address, for /health, /ready and /metrics.",
        ),
    )
    auth_cert_file: str | None = setting(
        None, Variable("IBEX_AUTH_CERT_FILE", text, "a PEM file", "The server certificate of auth. Enables TLS.")
    )
    auth_key_file: str | None = setting(
        None, Variable("IBEX_AUTH_KEY_FILE", text, "a PEM file", "The private key of IBEX_AUTH_CERT_FILE.")
    )
    auth_client_ca_file: str | None = setting(
        None,
        Variable(
            "IBEX_AUTH_CLIENT_CA_FILE", text, "a PEM file", "Auth requires client certificates signed by this CA."
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
            "The Redis server. It counts requests, and makes changes take effect at the next request.",
            is_secret=True,
        ),
    )
    redis_timeout_s: float = setting(
        0.05, Variable("IBEX_REDIS_TIMEOUT", seconds, SECONDS, "The time limit of a round trip to Redis.")
    )
    redis_credential_provider: str | None = setting(
        None,
        Variable(
            "IBEX_REDIS_CREDENTIAL_PROVIDER",
            module_and_name,
            "module:factory, a Python function that returns a redis-py CredentialProvider",
            "Supplies the user and password of each connection to Redis, in place of those in the URL.",
        ),
    )
    error_docs_base: str | None = setting(
        None,
        Variable(
            "IBEX_ERROR_DOCS_BASE",
            url("http", "https"),
            "an http:// or https:// URL",
            "Adds a docs_url to each error: this URL, a slash and the error code.",
        ),
    )
    journal_dir: str = setting(
        ".ibex/journal",
        Variable(
            "IBEX_JOURNAL_DIR",
            text,
            "a directory",
            "The folder of the journal, which keeps exchanges until both databases have them. Default: in `--home`.",
        ),
    )
    journal_sync: JournalSync = setting(
        JournalSync.NORMAL,
        Variable(
            "IBEX_JOURNAL_SYNC", JournalSync, "normal or full", "`full` survives a power loss, at a third of the rate."
        ),
    )
    journal_max_bytes: int = setting(
        1 << 30,
        Variable(
            "IBEX_JOURNAL_MAX_BYTES",
            int_between(65_536, 1 << 40),
            "65536 to 2^40 bytes",
            "The maximum size of each worker's journal.",
        ),
    )
    session_idle_timeout_s: float = setting(
        1_800.0,
        Variable(
            "IBEX_SESSION_IDLE_TIMEOUT",
            idle_seconds,
            "seconds, 60 to 31536000",
            "A session without a turn for this long becomes abandoned. A later turn makes it active again.",
        ),
    )
    echo_delay_s: float = setting(
        0.0, Variable("IBEX_ECHO_DELAY", delay, "seconds, 0 to 86400", "The delay of the echo provider's answers.")
    )

    files: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)
    """The field name and the path of each setting that was read from a file."""

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings, and the files of those that are given as ``X_FILE``.

        An empty variable counts as not set. So do those that ``ignored_variables`` has a message for. Raises
        ``SettingsError`` for an invalid value or file.
        """
        values: dict[str, Any] = {}
        files: dict[str, str] = {}
        ours = without_kubernetes(environ)
        for name, variable in variables():
            try:
                raw, path = raw_value(ours, variable)
                if raw:
                    values[name] = parsed(variable, raw, path)
            except ValueError as wrong:
                if is_of_opentelemetry(variable.name):
                    continue
                raise SettingsError(str(wrong)) from None
            if path is not None:
                files[name] = path
        settings = cls(**values, files=tuple(files.items()))
        wrong_tls = incomplete_tls(settings, variables())
        if wrong_tls is not None:
            raise SettingsError(wrong_tls)
        settings.refuse_small_body_budget()
        settings.refuse_unsafe_production(environ)
        return settings

    def refuse_small_body_budget(self) -> None:
        """Raise ``SettingsError`` if a quarter of the body budget is smaller than the largest allowed body."""
        least = 4 * self.max_request_body_bytes
        if self.body_budget_bytes < least:
            raise SettingsError(
                f"IBEX_BODY_BUDGET_BYTES is {self.body_budget_bytes}; it must be at least {least}, which is 4 times "
                "IBEX_MAX_REQUEST_BODY_BYTES. Raise it, or lower IBEX_MAX_REQUEST_BODY_BYTES."
            )

    def refuse_unsafe_production(self, environ: Mapping[str, str]) -> None:
        """Raise ``SettingsError`` if production lacks a credential or has a weak one.

        ``environ`` is the environment of the process: client libraries read credentials from it, such as PGPASSWORD.
        """
        if self.env is not Environment.PRODUCTION:
            return
        if self.auth_address is not None and not self.service_tokens and self.auth_client_cert_file is None:
            raise MissingSettingError(
                "IBEX_AUTH_SERVICE_TOKEN is not set. With IBEX_ENV=production a proxy needs it to authenticate to auth."
                " Set it to the same value as on auth, or use a client certificate (IBEX_AUTH_CLIENT_CERT_FILE)."
            )
        wrong = unsafe_credential(self, variables(), self.allow_insecure, environ)
        if wrong is not None:
            raise SettingsError(wrong)

    @property
    def service_tokens(self) -> tuple[str, ...]:
        """The credentials that auth accepts from proxies. A proxy presents the last. Empty if no token is set."""
        if self.auth_service_tokens is not None:
            return self.auth_service_tokens.reveal()
        return () if self.auth_service_token is None else (self.auth_service_token.reveal(),)

    def require_service_identity(self) -> None:
        """Raise ``MissingSettingError`` if auth in production could not authenticate proxies."""
        has_either = bool(self.service_tokens) or self.auth_client_ca_file is not None
        if self.env is Environment.PRODUCTION and not has_either:
            raise MissingSettingError(
                "IBEX_AUTH_SERVICE_TOKEN is not set. With IBEX_ENV=production auth needs it to authenticate proxies:"
                " without it, any client that can connect could validate tokens. Set it to a random value, the same as"
                " on the proxies, or require client certificates (IBEX_AUTH_CLIENT_CA_FILE)."
            )

    def require_provider(self) -> None:
        """Raise ``MissingSettingError`` if production has no key for the provider."""
        if self.env is Environment.PRODUCTION and self.openai_api_key is None:
            raise MissingSettingError(
                "OPENAI_API_KEY is not set. With IBEX_ENV=production a proxy needs it: a key for OPENAI_BASE_URL."
            )

    def require(self, *names: str) -> None:
        """Raise ``MissingSettingError``, with one line for each of these settings (field names) that is not set."""
        missing = [variable for name, variable in variables() if name in names and getattr(self, name) is None]
        if missing:
            lines = [f"{one.name} is not set. Set it to {one.allowed}. {one.meaning}" for one in missing]
            raise MissingSettingError("\n".join(lines), [one.name for one in missing])


def variables() -> tuple[tuple[str, Variable], ...]:
    """Return the field name and the ``Variable`` of every setting, in the order of the reference."""
    return tuple((f.name, f.metadata["variable"]) for f in fields(Settings) if "variable" in f.metadata)
