"""Rotation: the files of secrets and certificates that a process reads again, and their users (ADR 0061)."""

from __future__ import annotations

import asyncio
import logging
import os
from hashlib import sha256
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

from ibex.adapters.http_client.transport import Http1Transport
from ibex.adapters.openai.config import ApiKey
from ibex.adapters.openai.provider import OpenAIProvider
from ibex.adapters.system.file_watch import FileWatch
from ibex.adapters.telemetry.reloads import ReloadTelemetry
from ibex.entrypoints.auth_connection import check_files, client_tls, server_tls
from ibex.entrypoints.environments import sealing_secrets
from ibex.entrypoints.setting_files import SUFFIX, parsed, read_regular_file, read_text
from ibex.entrypoints.settings import SettingsError, variables

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ibex.adapters.grpc.channel import GrpcAuthChannel
    from ibex.adapters.grpc.server import AuthServer
    from ibex.adapters.postgres.database import Database
    from ibex.adapters.redis.link import RedisLink
    from ibex.adapters.system.file_watch import WatchedFiles
    from ibex.adapters.telemetry.registry import Registry
    from ibex.domain.directives.seal import Seal
    from ibex.domain.identity.token_hash import TokenPeppers
    from ibex.domain.proxying.provider import Provider
    from ibex.entrypoints.environments import AuthAdapters, EmbeddedAdapters, ProductionAdapters
    from ibex.entrypoints.setting_values import Secret
    from ibex.entrypoints.settings import Settings

PEPPER_DELAY_S: Final = 300.0
"""The time between learning a new last pepper and creating tokens with it."""
_CLICKHOUSE_FILES: Final = ("ca_cert", "client_cert", "client_cert_key")
_PROXY_TLS: Final = ("auth_ca_file", "auth_client_cert_file", "auth_client_key_file")
_AUTH_TLS: Final = ("auth_cert_file", "auth_key_file", "auth_client_ca_file")
_LOG: Final = logging.getLogger("ibex.files")


class Use(Protocol):
    """A function that passes the current value of a setting to what uses it.

    It raises ``ValueError`` if the value cannot be used.
    """

    def __call__(self) -> Awaitable[object] | object:
        """Use the current value."""


class SecretFile:
    """The file of a secret setting. Its content replaces the setting's value, and all uses of the value learn of it."""

    def __init__(self, settings: Settings, field: str, path: str, uses: Sequence[Use]) -> None:
        self._settings = settings
        self._variable = dict(variables())[field]
        self._secret: Secret[Any] = getattr(settings, field)
        self._uses = uses
        self.name = self._variable.name + SUFFIX
        self.paths = (path,)

    async def reload(self) -> bool:
        """Read the file and use its content; see ``WatchedFiles``."""
        (path,) = self.paths
        raw = await asyncio.to_thread(read_text, self.name, path)
        former, new = self._secret.reveal(), parsed(self._variable, raw, path).reveal()
        if _comparable(new) == _comparable(former):
            return False
        self._secret.replace(new)
        try:
            self._settings.refuse_unsafe_production(os.environ)
            for use in self._uses:
                await _finished(use())
        except (ValueError, SettingsError) as wrong:
            self._secret.replace(former)
            raise ValueError(str(wrong)) from None
        return True


class CertificateFiles:
    """Certificates and keys in files that settings name. Their users read them again."""

    def __init__(self, name: str, paths: Callable[[], Sequence[str]], use: Use) -> None:
        """``use`` reads the files. It is only called if their content differs from that at the start."""
        self.name = name
        self._paths = paths
        self._use = use
        self._content = self._digests()

    @property
    def paths(self) -> Sequence[str]:
        """The current paths."""
        return self._paths()

    async def reload(self) -> bool:
        """Read the files if their content has changed; see ``WatchedFiles``."""
        content = await asyncio.to_thread(self._digests)
        if content == self._content:
            return False
        try:
            await _finished(self._use())
        except (OSError, SettingsError) as wrong:
            raise ValueError(str(wrong) if isinstance(wrong, SettingsError) else type(wrong).__name__) from None
        self._content = content
        return True

    def _digests(self) -> list[bytes]:
        return [_digest(path) for path in self._paths()]


def proxy_files(settings: Settings, adapters: EmbeddedAdapters | ProductionAdapters) -> FileWatch:
    """Return the watch of a proxy's files."""
    has: Any = adapters  # either class; which adapters it has is checked below
    link = has.link() if "link" in has.providers else None
    uses: dict[str, list[Use]] = {
        "database_url": [_database_use(adapters.database(), settings.database_url)],
        "clickhouse_url": [lambda: adapters.traces().change_url(_text(settings.clickhouse_url))],
        **_provider_uses(settings, adapters.provider()),
        **_redis_uses(settings, link),
    }
    files: list[WatchedFiles] = []
    if "identity_database" in has.providers:
        uses["auth_database_url"] = [_database_use(has.identity_database(), settings.auth_database_url)]
        uses["token_peppers"] = [pepper_use(settings, has.peppers())]
    if "channel" in has.providers:
        channel: GrpcAuthChannel = has.channel()
        seals = [seal for seal in (has.directive_seal(), has.response_seal()) if seal is not None]
        uses["cache_key"] = [lambda: _replace_seals(settings, seals)]
        uses["auth_service_token"] = uses["auth_service_tokens"] = [
            lambda: channel.present(settings.service_tokens[-1]),
            lambda: _replace_seals(settings, seals),
        ]
        files += _tls_files(settings, _PROXY_TLS, lambda: _renew_client_tls(settings, channel))
    files += _secret_files(settings, uses)
    files += _redis_certificates(settings, link)
    if _clickhouse_files(settings):
        (use,) = uses["clickhouse_url"]
        files.append(CertificateFiles("IBEX_CLICKHOUSE_URL", lambda: _clickhouse_files(settings), use))
    ca, transport = os.environ.get("SSL_CERT_FILE"), adapters.transport()
    if ca and isinstance(transport, Http1Transport):
        files.append(CertificateFiles("SSL_CERT_FILE", lambda: (ca,), transport.renew_tls))
    return _watch(files, adapters.registry())


def auth_files(settings: Settings, adapters: AuthAdapters, server: AuthServer) -> FileWatch:
    """Return the watch of auth's files."""
    databases = (adapters.identity_database(), adapters.watch_database(), adapters.administration_database())
    uses: dict[str, list[Use]] = {
        "auth_database_url": [_database_use(database, settings.auth_database_url) for database in databases],
        "token_peppers": [pepper_use(settings, adapters.peppers())],
    }
    uses["auth_service_token"] = uses["auth_service_tokens"] = [
        lambda: server.accept_credentials(settings.service_tokens)
    ]
    link = adapters.link()
    files: list[WatchedFiles] = [
        *_secret_files(settings, uses | _redis_uses(settings, link)),
        *_redis_certificates(settings, link),
        *_tls_files(settings, _AUTH_TLS, lambda: _renew_server_tls(settings, server)),
    ]
    return _watch(files, adapters.metrics().registry)


def pepper_use(settings: Settings, peppers: TokenPeppers, *, delay_s: float = PEPPER_DELAY_S) -> Use:
    """Return a function that makes the peppers of the settings known at once.

    If the last one was unknown, tokens are created with it after ``delay_s``, when all replicas should know it.
    """

    def use() -> None:
        secret = settings.token_peppers
        waiting = None if secret is None else peppers.replace(secret.reveal())
        if waiting is not None:
            asyncio.get_running_loop().call_later(delay_s, peppers.use, waiting)
            _LOG.info(
                "pepper %s is known; new tokens use %s for %g s more, until all replicas know it",
                waiting,
                peppers.in_use,
                delay_s,
            )

    return use


def _database_use(database: Database, url: Secret[str] | None) -> Use:
    return lambda: database.change_url(_text(url))


def _provider_uses(settings: Settings, provider: Provider) -> dict[str, list[Use]]:
    if not isinstance(provider, OpenAIProvider):
        return {}

    def use() -> None:
        provider.use_credentials(ApiKey(_text(settings.openai_api_key)), settings.extra_headers)

    return {"openai_api_key": [use], "openai_headers": [use]}


def _secret_files(settings: Settings, uses: Mapping[str, Sequence[Use]]) -> list[WatchedFiles]:
    return [SecretFile(settings, field, path, uses[field]) for field, path in settings.files if field in uses]


def _tls_files(settings: Settings, fields: Sequence[str], use: Use) -> list[WatchedFiles]:
    """Return the files of one end of TLS between proxy and auth, which are used together; empty if TLS is off."""
    names = dict(variables())
    found = [(names[field].name, path) for field in fields if (path := getattr(settings, field)) is not None]
    paths = [path for _, path in found]
    return [CertificateFiles(found[0][0], lambda: paths, use)] if found else []


def _redis_uses(settings: Settings, link: RedisLink | None) -> dict[str, list[Use]]:
    return {} if link is None else {"redis_url": [lambda: link.change_url(_text(settings.redis_url))]}


def _redis_certificates(settings: Settings, link: RedisLink | None) -> list[WatchedFiles]:
    if link is None or not link.certificate_files:
        return []
    (use,) = _redis_uses(settings, link)["redis_url"]
    return [CertificateFiles("IBEX_REDIS_URL", lambda: link.certificate_files, use)]


def _clickhouse_files(settings: Settings) -> Sequence[str]:
    options = dict(parse_qsl(urlsplit(_text(settings.clickhouse_url)).query))
    return [options[name] for name in _CLICKHOUSE_FILES if os.path.isabs(options.get(name, ""))]  # noqa: PTH117 - a text


async def _renew_client_tls(settings: Settings, channel: GrpcAuthChannel) -> None:
    tls = await asyncio.to_thread(client_tls, settings)
    await asyncio.to_thread(check_files, settings)
    if tls is not None:
        await channel.change_tls(tls)


async def _renew_server_tls(settings: Settings, server: AuthServer) -> None:
    tls = await asyncio.to_thread(server_tls, settings)
    await asyncio.to_thread(check_files, settings)
    if tls is not None:
        server.change_tls(tls)


def _replace_seals(settings: Settings, seals: Sequence[Seal]) -> None:
    secrets = sealing_secrets(settings)
    for seal in seals:
        seal.replace(*secrets)


def _watch(files: Sequence[WatchedFiles], registry: Registry) -> FileWatch:
    return FileWatch(files, ReloadTelemetry(registry, [one.name for one in files]))


async def _finished(used: Awaitable[object] | object) -> None:
    if isawaitable(used):
        await used


def _text(secret: Secret[str] | None) -> str:
    return "" if secret is None else secret.reveal()


def _comparable(value: object) -> object:
    """Return a value that is equal only if the order of peppers is equal, too: the last one is for new tokens."""
    return list(value.items()) if isinstance(value, dict) else value


def _digest(path: str) -> bytes:
    try:
        return sha256(read_regular_file(path)).digest()
    except OSError:
        return b""
