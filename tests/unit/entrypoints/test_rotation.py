"""The files that a process reads again, and what learns of their content. ``tests/faults`` rotates them under load."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ibex.domain.identity.token_hash import TokenPeppers
from ibex.entrypoints.environments import EmbeddedAdapters, ProductionAdapters, sealing_secrets
from ibex.entrypoints.rotation import CertificateFiles, SecretFile, pepper_use, proxy_files
from ibex.entrypoints.settings import Settings, variables

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "k1:AAECAwQFBgcICQoLDA0ODw==", "k2:EBESExQVFhcYGRobHB0eHw=="
TOKENS = ("an-old-service-token-of-32-characters", "a-new-service-token-of-32-characters")


def loaded(tmp_path: Path, variable: str, content: str, **environ: str) -> tuple[Settings, Path]:
    """Return settings with one variable in a file, and that file."""
    file = tmp_path / variable
    file.write_text(content)
    return Settings.load({f"{variable}_FILE": str(file), **environ}), file


async def test_a_changed_secret_is_passed_on(tmp_path: Path) -> None:
    """The settings have the new value when its users learn of it. The same value again changes nothing."""
    settings, file = loaded(tmp_path, "OPENAI_API_KEY", "sk-old")
    seen: list[str] = []

    def use() -> None:
        assert settings.openai_api_key is not None
        seen.append(settings.openai_api_key.reveal())

    watched = SecretFile(settings, "openai_api_key", str(file), [use])
    assert (watched.name, watched.paths) == ("OPENAI_API_KEY_FILE", (str(file),))
    assert not await watched.reload()
    file.write_text("sk-new\n")
    assert await watched.reload()
    assert not await watched.reload()
    assert seen == ["sk-new"]


@pytest.mark.parametrize("content", ["", "mysql://canary@h", "postgresql://ibex_app:canary@refused/ibex"])
async def test_a_secret_that_cannot_be_used_changes_nothing(tmp_path: Path, content: str) -> None:
    """The file is empty, invalid, or refused by a user. The error shows no content."""
    settings, file = loaded(tmp_path, "IBEX_DATABASE_URL", "postgresql://ibex_app:old@h/ibex")

    async def use() -> None:
        assert settings.database_url is not None
        if "refused" in settings.database_url.reveal():
            raise ValueError("a user refuses it")

    file.write_text(content)
    with pytest.raises(ValueError, match=r"IBEX_DATABASE_URL_FILE|a user refuses it") as raised:
        await SecretFile(settings, "database_url", str(file), [use]).reload()
    assert "canary" not in str(raised.value)
    assert settings.database_url is not None
    assert settings.database_url.reveal() == "postgresql://ibex_app:old@h/ibex"


async def test_production_refuses_a_weak_secret_also_later(tmp_path: Path) -> None:
    """The rules of the start apply."""
    production = {"IBEX_ENV": "production", "OPENAI_API_KEY": "sk-x"}
    settings, file = loaded(tmp_path, "IBEX_DATABASE_URL", "postgresql://ibex_app:8d1f77c2@h/ibex", **production)
    file.write_text("postgresql://ibex_app:postgres@h/ibex")

    with pytest.raises(ValueError, match="easily guessed"):
        await SecretFile(settings, "database_url", str(file), []).reload()


async def test_certificates_are_read_again_if_their_content_changes(tmp_path: Path) -> None:
    """If they cannot be used, they are tried again."""
    file = tmp_path / "ca.pem"
    file.write_text("old")
    used: list[str] = []

    def use() -> None:
        used.append(file.read_text())
        if used[-1] == "wrong":
            raise OSError

    watched = CertificateFiles("SSL_CERT_FILE", lambda: [str(file)], use)
    assert not await watched.reload()
    file.write_text("wrong")
    for _ in range(2):
        with pytest.raises(ValueError, match="OSError"):
            await watched.reload()
    file.write_text("new")
    assert await watched.reload()
    assert used == ["wrong", "wrong", "new"]


async def test_the_order_of_peppers_is_a_change(tmp_path: Path) -> None:
    """A new pepper before the last one is only known. As the last one it is used, at once if it was known."""
    settings, file = loaded(tmp_path, "IBEX_TOKEN_PEPPERS", OLD)
    assert settings.token_peppers is not None
    peppers = TokenPeppers(settings.token_peppers.reveal())
    watched = SecretFile(settings, "token_peppers", str(file), [pepper_use(settings, peppers)])

    in_use = []
    for content in (f"{NEW},{OLD}", f"{OLD},{NEW}", NEW):
        file.write_text(content)
        assert await watched.reload()
        in_use.append(peppers.in_use)
    assert in_use == ["k1", "k2", "k2"]


async def test_a_pepper_that_arrives_as_the_last_one_is_used_later(tmp_path: Path) -> None:
    """Other replicas may not have read it yet."""
    settings, file = loaded(tmp_path, "IBEX_TOKEN_PEPPERS", OLD)
    assert settings.token_peppers is not None
    peppers = TokenPeppers(settings.token_peppers.reveal())
    watched = SecretFile(settings, "token_peppers", str(file), [pepper_use(settings, peppers, delay_s=0.0)])
    file.write_text(f"{OLD},{NEW}")
    await watched.reload()
    assert peppers.in_use == "k1"

    await asyncio.sleep(0.001)
    assert peppers.in_use == "k2"


def test_secrets_that_others_present_can_open_entries() -> None:
    """The last service token seals, and the others open. A cache key replaces all of them."""
    settings = Settings.load({"IBEX_AUTH_SERVICE_TOKENS": ",".join(TOKENS)})
    assert settings.service_tokens == TOKENS
    assert sealing_secrets(settings) == [TOKENS[1].encode(), TOKENS[0].encode()]
    with_key = Settings.load({"IBEX_AUTH_SERVICE_TOKENS": ",".join(TOKENS), "IBEX_CACHE_KEY": TOKENS[0]})
    assert sealing_secrets(with_key) == [TOKENS[0].encode()]
    assert sealing_secrets(Settings()) == []


SECRETS = {
    "OPENAI_API_KEY": "sk-x",
    "IBEX_OPENAI_HEADERS": "OpenAI-Project: p",
    "IBEX_DATABASE_URL": "postgresql://ibex_app@127.0.0.1:1/ibex",
    "IBEX_AUTH_DATABASE_URL": "postgresql://ibex_auth@127.0.0.1:1/ibex",
    "IBEX_CLICKHOUSE_URL": "http://127.0.0.1:1",
    "IBEX_REDIS_URL": "redis://127.0.0.1:1/0",
    "IBEX_TOKEN_PEPPERS": OLD,
    "IBEX_AUTH_SERVICE_TOKEN": TOKENS[0],
    "IBEX_AUTH_SERVICE_TOKENS": TOKENS[1],
    "IBEX_CACHE_KEY": TOKENS[0],
}
NOT_ROTATED = {"IBEX_OWNER_DATABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
"""`ibex migrate` reads the first one at its start. The others are not credentials, unless a password is in the URL."""


def in_files(tmp_path: Path) -> Settings:
    """Return settings with every secret in a file."""
    for name, value in SECRETS.items():
        (tmp_path / name).write_text(value)
    files = {f"{name}_FILE": str(tmp_path / name) for name in SECRETS}
    return Settings.load({**files, "IBEX_AUTH_ADDRESS": "127.0.0.1:1"})


def watched_by(adapters: EmbeddedAdapters | ProductionAdapters, settings: Settings) -> set[str]:
    """Return the variables of the files that a proxy watches."""
    adapters.settings.override(settings)
    return {one.name.removesuffix("_FILE") for one in proxy_files(settings, adapters).files}


def test_every_secret_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process watches the files of the secrets that it uses, and no others."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    settings = in_files(tmp_path)
    assert {variable.name for _, variable in variables() if variable.is_secret} == SECRETS.keys() | NOT_ROTATED

    of_proxies = SECRETS.keys() - {"IBEX_AUTH_DATABASE_URL", "IBEX_TOKEN_PEPPERS"}
    assert watched_by(ProductionAdapters(), settings) == of_proxies
    of_auth = {"IBEX_AUTH_SERVICE_TOKEN", "IBEX_AUTH_SERVICE_TOKENS", "IBEX_REDIS_URL", "IBEX_CACHE_KEY"}
    assert watched_by(EmbeddedAdapters(), settings) == SECRETS.keys() - of_auth


async def test_a_proxys_users_learn_of_new_secrets(tmp_path: Path) -> None:
    """A file that a user cannot accept is refused: an invalid key, another topology, a Redis that does not answer."""
    settings = in_files(tmp_path)
    adapters = ProductionAdapters()
    adapters.settings.override(settings)
    files = {one.name.removesuffix("_FILE"): one for one in proxy_files(settings, adapters).files}
    new = {
        "IBEX_DATABASE_URL": "postgresql://ibex_app:new@127.0.0.1:1/ibex",
        "IBEX_CLICKHOUSE_URL": "http://new@127.0.0.1:1",
        "IBEX_AUTH_SERVICE_TOKENS": f"{TOKENS[1]},{TOKENS[0]}",
        "IBEX_CACHE_KEY": TOKENS[1],
    }
    for name, value in new.items():
        (tmp_path / name).write_text(value)
        assert await files[name].reload()
    refused = {
        "OPENAI_API_KEY": ("sk with blanks", "printable ASCII"),
        "IBEX_REDIS_URL": ("redis+cluster://127.0.0.1:1", "one server, Sentinels and a Cluster"),
        "IBEX_CLICKHOUSE_URL": ("chdb://", "cannot change without a restart"),
    }
    for name, (value, reason) in refused.items():
        (tmp_path / name).write_text(value)
        with pytest.raises(ValueError, match=reason):
            await files[name].reload()
