"""The destinations of secrets, and the rule that `.env` must not redirect a secret from the environment (ADR 0039).

A command reads the `.env` of its current directory, which can come from a third party, for example with a repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ibex.entrypoints.setting_files import is_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DATABASES: Final = ("IBEX_DATABASE_URL", "IBEX_AUTH_DATABASE_URL", "IBEX_OWNER_DATABASE_URL")
_AUTH: Final = ("IBEX_AUTH_ADDRESS", "IBEX_AUTH_CA_FILE")
_SPANS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

DESTINATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "OPENAI_API_KEY": ("OPENAI_BASE_URL",),
    "IBEX_OPENAI_HEADERS": ("OPENAI_BASE_URL",),
    "IBEX_AUTH_SERVICE_TOKEN": _AUTH,
    "IBEX_AUTH_SERVICE_TOKENS": _AUTH,
    "IBEX_AUTH_CLIENT_KEY_FILE": _AUTH,
    "IBEX_TOKEN": ("IBEX_URL", "IBEX_HOST", "IBEX_PORT", "IBEX_BASE_PATH"),
    # These contain their own destination.
    "IBEX_DATABASE_URL": (),
    "IBEX_AUTH_DATABASE_URL": (),
    "IBEX_OWNER_DATABASE_URL": (),
    "IBEX_CLICKHOUSE_URL": (),
    "IBEX_REDIS_URL": (),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": (),
    # These are never sent.
    "IBEX_TOKEN_PEPPERS": (),
    "IBEX_CACHE_KEY": (),
    # Libraries read these from the environment, and send them to the servers in IBEX's settings.
    "PGPASSWORD": _DATABASES,
    "PGSSLPASSWORD": _DATABASES,
    "OTEL_EXPORTER_OTLP_HEADERS": _SPANS,
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": _SPANS,
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": _SPANS,
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": _SPANS,
}
"""For each variable with a secret, the variables that set its destination, or the CA to trust there."""

ONLY_CHAT_SENDS: Final = "IBEX_TOKEN"
"""The secret that only ``ibex chat`` sends, so only that command checks its destinations."""


def redirected_secret(
    environ: Mapping[str, str], dotenv: Mapping[str, str], secrets: Iterable[str] = tuple(DESTINATIONS)
) -> tuple[str, str] | None:
    """Return a secret of the environment whose destination only the file sets, and that destination; otherwise None."""
    for secret in secrets:
        if not is_set(environ, secret):
            continue
        for destination in DESTINATIONS[secret]:
            if dotenv.get(destination, "").strip() and destination not in environ and not is_set(environ, destination):
                return secret, destination
    return None


def redirected_secret_message(secret: str, destination: str, file: str) -> str:
    """Return the error message for a redirected_secret secret."""
    return (
        f"{destination} is in {file}, but {secret} comes from the environment. {file} must not redirect it. Set"
        f" {destination} in the environment too, or set {secret} in {file} and not in the environment."
    )
