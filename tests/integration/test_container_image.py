"""The image of deploy/Containerfile: its own steps, carried out in a sandbox, and the program that they install."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from harness.container import Container, ContainerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

ROOT: Final = Path(__file__).parents[2]
UID: Final = 12_345
START_TIMEOUT_S: Final = 30
NOWHERE: Final = "127.0.0.1:1"
PASSWORD: Final = "kF3vXq9TzLw2RbN8"
SERVICE_TOKEN: Final = "Wq8Jt2LzXc5Vb9Nm4Ks7Dh3Gf6Pa1RyUe0Ti"
PRODUCTION: Final = {
    "IBEX_HOST": "127.0.0.1",
    "IBEX_PORT": "0",
    "IBEX_DATABASE_URL": f"postgresql://ibex_app:{PASSWORD}@{NOWHERE}/ibex",
    "IBEX_CLICKHOUSE_URL": f"http://ibex:{PASSWORD}@{NOWHERE}/ibex",
    "IBEX_REDIS_URL": f"redis://:{PASSWORD}@{NOWHERE}/0",
    "IBEX_AUTH_ADDRESS": NOWHERE,
    "IBEX_AUTH_SERVICE_TOKEN": SERVICE_TOKEN,
    "IBEX_DRAIN_DELAY": "0",
    "IBEX_SHUTDOWN_TIMEOUT": "1",
    "OPENAI_API_KEY": PASSWORD,
}
"""A production environment whose servers are all out of reach: nothing but the image itself is tested."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Container:
    """The image, built from the Containerfile."""
    return Container.build(ROOT, ROOT / "deploy" / "Containerfile", tmp_path_factory.mktemp("image"))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The directory that the container can write to."""
    tmp_path.chmod(0o1777)
    return tmp_path


@pytest.fixture
def proxy(image: Container, volume: Path) -> Iterator[ContainerProcess]:
    """The image's default command on a read-only root, under a user id that no file of the system knows."""
    process = image.start((), PRODUCTION, volume, uid=UID)
    yield process
    if process.process.poll() is None:
        process.process.kill()
        process.wait()


def test_a_read_only_container_under_any_user_id_is_healthy_and_ends_on_sigterm(
    proxy: ContainerProcess, volume: Path
) -> None:
    """The program is process 1, which gets no signal that it does not handle. It writes to its volume alone."""
    listening = json.loads(proxy.wait_for_line("listening on http", START_TIMEOUT_S))["event"]

    health = httpx.get(f"{listening.removeprefix('listening on ')}/health", trust_env=False)

    assert (health.status_code, health.json()) == (200, {"status": "ok", "checks": {}})
    journal = [path for path in (volume / "journal").rglob("*") if path.is_file()]
    assert journal
    assert {path.stat().st_uid for path in journal} == {UID if os.geteuid() == 0 else os.geteuid()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in journal} == {0o600}
    assert proxy.terminate() == 0


def test_the_image_runs_every_command(image: Container, volume: Path) -> None:
    """The same entry point migrates. Without a database it says which one it did not reach, and exits with code 1."""
    settings = {
        "IBEX_OWNER_DATABASE_URL": f"postgresql://ibex_owner:{PASSWORD}@{NOWHERE}/ibex",
        "IBEX_CLICKHOUSE_URL": PRODUCTION["IBEX_CLICKHOUSE_URL"],
    }

    process = image.start(["migrate"], settings, volume, uid=UID)

    assert process.wait() == 1
    assert "IBEX_OWNER_DATABASE_URL" in process.lines[0]
