"""The units of deploy/systemd, as systemd itself reads them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

import pytest

from harness.deployment import DEPLOY, FLUSH_S, unit, unit_environment
from harness.validators import program, run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

UNITS: Final = DEPLOY / "systemd"
SERVICES: Final = tuple(sorted(path.name for path in UNITS.glob("*.service")))
MOST_EXPOSURE: Final = "15"
"""In tenths. systemd calls 1 to 4.4 "OK"; a service without hardening has 96."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with the units and the programs that they start."""
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system")
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    for name in ("opt/ibex/bin/ibex", "bin/kill"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2("/bin/true", tmp_path / name)
    return tmp_path


def analyze(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the output of systemd-analyze."""
    return run(program("systemd-analyze", "systemd"), *arguments)


def verified(root: Path) -> tuple[int, str]:
    """Verify all units of a system."""
    names = sorted(path.name for path in UNITS.iterdir())
    return analyze("verify", f"--root={root}", "--man=no", "--recursive-errors=one", *names)


def test_systemd_accepts_the_units(root: Path) -> None:
    """It warns of unknown options, wrong values and programs that do not exist."""
    assert verified(root) == (0, "")


@pytest.mark.parametrize("line", ["StateDirectroy=ibex", "TimeoutStopSec=long", "ExecStartPre=/opt/ibex/bin/ibx"])
def test_a_mistake_in_a_unit_is_found(root: Path, line: str) -> None:
    """The check of the units can fail."""
    path = root / "etc/systemd/system/ibex-proxy.service"
    path.write_text(path.read_text().replace("[Service]\n", f"[Service]\n{line}\n"))

    code, output = verified(root)

    assert code != 0 or "ibex-proxy.service" in output


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_hardened(name: str) -> None:
    """The rating is of what an attacker who controls the program could reach."""
    code, output = analyze(
        "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", "--no-pager", str(UNITS / name)
    )

    assert code == 0, output.splitlines()[-2:]


@pytest.mark.parametrize("name", ["ibex-proxy.service", "ibex-auth.service"])
def test_a_service_has_time_to_drain_to_finish_and_to_flush(name: str) -> None:
    """It is killed only after the times of the settings, and 15 s for the journal. The supervisor gets SIGTERM."""
    environ = unit_environment(name)
    needed = int(environ["IBEX_DRAIN_DELAY"]) + int(environ["IBEX_SHUTDOWN_TIMEOUT"]) + FLUSH_S

    assert int(unit(name)["TimeoutStopSec"][0]) >= needed
    assert unit(name)["KillMode"] == ["mixed"]


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_are_credentials(name: str) -> None:
    """Each file that a variable names is a credential that systemd hands over, and there is no other."""
    loaded = [credential.split(":") for credential in unit(name)["LoadCredential"]]
    files = {variable: value for variable, value in unit_environment(name).items() if variable.endswith("_FILE")}

    assert files == {f"{credential}_FILE": f"%d/{credential}" for credential, _ in loaded}
    assert all(path == f"/etc/ibex/credentials/{credential}" for credential, path in loaded)


def test_the_proxy_keeps_its_journal_and_reloads_without_an_interruption() -> None:
    """SIGHUP replaces the workers one by one."""
    proxy = unit("ibex-proxy.service")

    assert proxy["StateDirectory"] == ["ibex"]
    assert unit_environment("ibex-proxy.service")["IBEX_JOURNAL_DIR"] == "%S/ibex/journal"
    assert proxy["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert int(proxy["LimitNOFILE"][0]) >= 65_536


def starts(names: Sequence[str]) -> set[str]:
    """Return the commands of units."""
    return {command for name in names for command in unit(name)["ExecStart"]}


def test_the_target_starts_auth_and_the_proxy() -> None:
    """The migration is started by hand, before a new version."""
    wanted = unit("ibex.target")["Wants"][0].split()

    assert starts(wanted) == {"/opt/ibex/bin/ibex auth serve", "/opt/ibex/bin/ibex serve --workers 2"}
    assert all(unit(name)["PartOf"] == ["ibex.target"] for name in wanted)
    assert starts(["ibex-migrate.service"]) == {"/opt/ibex/bin/ibex migrate"}
