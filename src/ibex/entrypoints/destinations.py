"""Where each secret is sent, and the rule that `.env` does not decide it for a secret of the environment (ADR 0039).

A `.env` is read from whatever directory a command is run in. It may come from somebody else, say with a repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DATABASES: Final = ("IBEX_DATABASE_URL", "IBEX_AUTH_DATABASE_URL", "IBEX_OWNER_DATABASE_URL")
_AUTH: Final = ("IBEX_AUTH_ADDRESS", "IBEX_AUTH_CA_FILE")
_SPANS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

DESTINATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "OPENAI_API_KEY": ("OPENAI_BASE_URL",),
    "IBEX_AUTH_SERVICE_TOKEN": _AUTH,
    "IBEX_AUTH_CLIENT_KEY_FILE": _AUTH,
    "IBEX_TOKEN": ("IBEX_URL", "IBEX_HOST", "IBEX_PORT"),
    # These name the server themselves.
    "IBEX_DATABASE_URL": (),
    "IBEX_AUTH_DATABASE_URL": (),
    "IBEX_OWNER_DATABASE_URL": (),
    "IBEX_CLICKHOUSE_URL": (),
    "IBEX_REDIS_URL": (),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": (),
    # These are sent nowhere.
    "IBEX_TOKEN_PEPPERS": (),
    "IBEX_CACHE_KEY": (),
    # Libraries read these from the environment, and send them where IBEX's settings say.
    "PGPASSWORD": _DATABASES,
    "PGSSLPASSWORD": _DATABASES,
    "OTEL_EXPORTER_OTLP_HEADERS": _SPANS,
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": _SPANS,
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": _SPANS,
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": _SPANS,
}
"""For each variable that holds a secret, the variables that say where it is sent, or whom to trust there."""

ONLY_CHAT_SENDS: Final = "IBEX_TOKEN"
"""No other command sends it, so that its destinations are checked there."""


def misdirected(
    environ: Mapping[str, str], dotenv: Mapping[str, str], secrets: Iterable[str] = tuple(DESTINATIONS)
) -> tuple[str, str] | None:
    """Return a secret of the environment and its destination that only the file names; None if there is none."""
    for secret in secrets:
        if not environ.get(secret, "").strip():
            continue
        for destination in DESTINATIONS[secret]:
            if dotenv.get(destination, "").strip() and destination not in environ:
                return secret, destination
    return None


def misdirection(secret: str, destination: str, file: str) -> str:
    """Return what to tell a user."""
    return (
        f"{destination} is in {file}, but {secret} comes from the environment, and {file} does not decide where that is"
        f" sent. Set {destination} in the environment too, or {secret} in {file} and not in the environment."
    )
