"""Commands that start processes or prepare databases: ``dev``, ``serve``, ``auth``, ``migrate``, ``bootstrap``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rich_click as click
from click.exceptions import Exit

from ibex.entrypoints.cli.dev_console import DevConsole
from ibex.entrypoints.cli.output import json_option, show_one
from ibex.entrypoints.first_installation import Installation, InstallationNames, bootstrap
from ibex.entrypoints.home import DEFAULT_HOME
from ibex.entrypoints.setting_files import is_set, layered

if TYPE_CHECKING:
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

EXIT_PENDING: Final = 3
_SERVER_SETTINGS: Final = (
    "IBEX_DATABASE_URL",
    "IBEX_AUTH_DATABASE_URL",
    "IBEX_CLICKHOUSE_URL",
    "IBEX_AUTH_ADDRESS",
    "IBEX_REDIS_URL",
)
"""Settings that name servers. If one of them is set, the user does not mean the embedded instance."""


@click.command()
@click.option("--host", help="The address to listen on. Default: IBEX_HOST, or 127.0.0.1.")
@click.option("--port", help="The port, or 0 for any free one. Default: IBEX_PORT, or 8080 if it is free.")
@click.option("--echo-delay", help="Seconds before the echo provider answers. Default: IBEX_ECHO_DELAY.")
@click.pass_obj
def dev(invocation: Invocation, host: str | None, port: str | None, echo_delay: str | None) -> None:
    """Start IBEX with embedded servers, which keep their data in the home folder."""
    from ibex.entrypoints.embedded import run  # noqa: PLC0415 - keeps --help quick

    chosen = {"IBEX_HOST": host, "IBEX_PORT": port, "IBEX_ECHO_DELAY": echo_delay}
    options = {name: value for name, value in chosen.items() if value is not None}
    environ = layered(invocation.environ_with_dotenv(), options)
    home = invocation.home.path
    command = shlex.quote(_short(sys.argv[0])) if Path(sys.argv[0]).name == "ibex" else "ibex"
    option = "" if home == Path(DEFAULT_HOME) else f" --home {shlex.quote(str(home))}"
    raise Exit(run(invocation.home, environ, DevConsole(str(home), command + option)))


def _short(path: str) -> str:
    """Return the path, relative to the current directory if that is shorter."""
    return min(path, os.path.relpath(path), key=len)


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="The number of worker processes, which share one port. SIGHUP replaces them one by one. Default: one process "
    "that serves by itself.",
)
@click.pass_obj
def serve(invocation: Invocation, workers: int | None) -> None:
    """Start the proxy with the servers that the settings name."""
    from ibex.entrypoints.proxy import serve as run  # noqa: PLC0415 - keeps --help quick

    environ = invocation.environ_of_settings()
    has_servers = (
        (workers or 1) > 1 or invocation.in_production or any(is_set(environ, name) for name in _SERVER_SETTINGS)
    )
    with invocation.explaining_missing_settings("" if has_servers else invocation.no_instance()):
        raise Exit(run(invocation.environ_of_settings, workers))


@click.group()
def auth() -> None:
    """The auth service: organizations, users, agents and tokens."""


@auth.command("serve")
@click.pass_obj
def serve_auth(invocation: Invocation) -> None:
    """Start the auth service (gRPC for proxies; HTTP for health and metrics)."""
    from ibex.entrypoints.auth import serve as run  # noqa: PLC0415 - keeps --help quick

    with invocation.explaining_missing_settings():
        raise Exit(run(invocation.settings(), invocation.environ_with_dotenv()))


@click.command()
@click.option(
    "--check", is_flag=True, help=f"Change nothing. Exit with {EXIT_PENDING} if migrations are pending, else with 0."
)
@click.pass_obj
def migrate(invocation: Invocation, *, check: bool) -> None:
    """Migrate PostgreSQL and ClickHouse to the schema of this version."""
    from ibex.entrypoints import migrations  # noqa: PLC0415 - keeps --help quick

    with invocation.explaining_missing_settings():
        if check:
            schemas = migrations.check(invocation.settings())
            lines = [schema.report for schema in schemas]
        else:
            schemas, lines = [], migrations.migrate(invocation.settings())
    for line in lines:
        click.echo(line)
    if any(schema.is_pending for schema in schemas):
        raise Exit(EXIT_PENDING)


@click.command("bootstrap")
@click.option("--org", "organization", required=True, help="The name of the first organization.")
@click.option("--admin-email", required=True, help="The email address of its administrator.")
@click.option("--agent", required=True, help="The name of its first agent.")
@click.option("--directive", required=True, help="The directive of the agent, which IBEX adds to its requests.")
@json_option
@click.pass_obj
def bootstrap_command(
    invocation: Invocation, organization: str, admin_email: str, agent: str, directive: str, *, as_json: bool
) -> None:
    """Create a first organization with an administrator, an agent and two tokens. Tokens are shown only once."""
    names = InstallationNames(organization, admin_email, agent, directive)

    async def work(use_cases: Administration) -> Installation:
        return await bootstrap(use_cases.identity, use_cases.directives, names)

    made = invocation.administer(work)
    row = {
        "org_id": str(made.organization.id),
        "agent_id": str(made.agent.id),
        "admin_user_id": str(made.admin.id),
        "directive": f"{made.directive.version.number}@{made.directive.version.sha256[:8]}",
        "agent_token": made.agent_token.reveal(),
        "admin_token": made.admin_token.reveal(),
    }
    show_one(row, as_json=as_json)
