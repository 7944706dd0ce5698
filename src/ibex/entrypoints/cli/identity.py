"""Commands for organizations, agents and tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import rich_click as click

from ibex.domain.identity.management import MAX_RATE_LIMIT_RPM, OrganizationStatus, TokenGrant
from ibex.domain.identity.model import AgentStatus
from ibex.domain.identity.permissions import NAMED_SETS, Permission, permissions_of
from ibex.entrypoints.cli.invocation import parse_uuid
from ibex.entrypoints.cli.output import Row, json_option, org_option, show_one, show_rows

if TYPE_CHECKING:
    from ibex.domain.identity.management import NamedAgent, Organization, StoredToken
    from ibex.domain.identity.model import PersonalAccessToken
    from ibex.entrypoints.administration import Administration
    from ibex.entrypoints.cli.invocation import Invocation

_ORG_STATUSES = {"suspend": OrganizationStatus.SUSPENDED, "activate": OrganizationStatus.ACTIVE}
_ORG_HELP = {
    "suspend": "Suspend an organization. All its tokens are refused with 401 INVALID_TOKEN until it is activated.",
    "activate": "Activate a suspended organization. Its tokens are valid again.",
}
_AGENT_STATUSES = {
    "pause": AgentStatus.PAUSED,
    "suspend": AgentStatus.SUSPENDED,
    "archive": AgentStatus.ARCHIVED,
    "activate": AgentStatus.ACTIVE,
}
_TIME_SPAN = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PREFIX = "ibex_pat_"


def parse_time_span(text: str) -> timedelta:
    """Parse a time span such as ``90s``, ``15m``, ``1h`` or ``30d``. Raises ``click.BadParameter``."""
    match = _TIME_SPAN.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"{text!r} is not a time span such as 90s, 15m, 1h or 30d.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


class _RateLimit(click.IntRange):
    """A number of requests per minute."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number. Raises ``click.BadParameter``."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            allowed = f"from {self.min} (unlimited) to {self.max}"
            self.fail(f"{value!r} is not a number of requests per minute {allowed}.", param, ctx)


@click.group()
def org() -> None:
    """Manage organizations, the tenants of IBEX."""


@org.command("create")
@click.argument("name")
@click.option(
    "--rpm",
    type=_RateLimit(0, MAX_RATE_LIMIT_RPM),
    help="Requests per minute, 0 for unlimited. Default: IBEX_RATE_LIMIT_DEFAULT_RPM.",
)
@json_option
@click.pass_obj
def create_org(invocation: Invocation, name: str, rpm: int | None, *, as_json: bool) -> None:
    """Create an organization."""
    made = invocation.administer(lambda use_cases: use_cases.identity.create_organization(name, rpm))
    show_one(_org_row(made), as_json=as_json)


@org.command("list")
@json_option
@click.pass_obj
def list_orgs(invocation: Invocation, *, as_json: bool) -> None:
    """List all organizations."""
    found = invocation.administer(lambda use_cases: use_cases.identity.organizations())
    columns = {"id": "id", "name": "name", "status": "status", "rate_limit_rpm": "rpm", "created_at": "created"}
    empty = "There is no organization yet. Create one with `ibex org create`."
    show_rows([_org_row(one) for one in found], as_json=as_json, empty=empty, columns=columns)


@org.command("set")
@click.argument("organization")
@click.option("--rpm", type=_RateLimit(0, MAX_RATE_LIMIT_RPM), help="Requests per minute, 0 for unlimited.")
@click.option(
    "--default-rpm",
    is_flag=True,
    help="Remove the organization's own limit. IBEX_RATE_LIMIT_DEFAULT_RPM applies from then on.",
)
@json_option
@click.pass_obj
def set_org(invocation: Invocation, organization: str, rpm: int | None, *, default_rpm: bool, as_json: bool) -> None:
    """Change the rate limit of an organization. Choose either --rpm or --default-rpm."""
    if default_rpm == (rpm is not None):
        raise click.UsageError("Choose the new limit with either --rpm N (0 for unlimited) or --default-rpm.")

    async def work(use_cases: Administration) -> Organization:
        found = await invocation.organization(use_cases, organization)
        await use_cases.identity.set_organization_rate_limit(found.id, rpm)
        return found

    before = invocation.administer(work)
    if as_json:
        show_one(_org_row(replace(before, rate_limit_rpm=rpm)), as_json=True)
    else:
        click.echo(f"{before.name}: {_limit(rpm)} (before: {_limit(before.rate_limit_rpm)}).")


def _limit(rpm: int | None) -> str:
    if rpm is None:
        return "the default limit, IBEX_RATE_LIMIT_DEFAULT_RPM"
    return f"{rpm} request{'' if rpm == 1 else 's'} per minute" if rpm else "unlimited"


def _org_command(verb: str) -> None:
    @org.command(verb, help=_ORG_HELP[verb])
    @click.argument("organization")
    @click.pass_obj
    def change(invocation: Invocation, organization: str) -> None:
        async def work(use_cases: Administration) -> str:
            found = await invocation.organization(use_cases, organization)
            await use_cases.identity.set_organization_status(found.id, _ORG_STATUSES[verb])
            return found.name

        click.echo(f"{invocation.administer(work)} is {_ORG_STATUSES[verb]}.")


for _verb in _ORG_STATUSES:
    _org_command(_verb)


@click.group()
def agent() -> None:
    """Manage agents, which send the requests of an organization."""


@agent.command("create")
@click.argument("name")
@org_option
@json_option
@click.pass_obj
def create_agent(invocation: Invocation, name: str, org: str | None, *, as_json: bool) -> None:
    """Create an agent."""

    async def work(use_cases: Administration) -> NamedAgent:
        organization = await invocation.organization(use_cases, org)
        return await use_cases.identity.create_agent(organization.id, name)

    show_one(_agent_row(invocation.administer(work)), as_json=as_json)


@agent.command("list")
@org_option
@json_option
@click.pass_obj
def list_agents(invocation: Invocation, org: str | None, *, as_json: bool) -> None:
    """List the agents of an organization."""

    async def work(use_cases: Administration) -> list[Row]:
        organization = await invocation.organization(use_cases, org)
        return [_agent_row(found) for found in await use_cases.identity.agents(organization.id)]

    columns = {"id": "id", "name": "name", "status": "status", "created_at": "created"}
    empty = "There is no agent yet. Create one with `ibex agent create`."
    show_rows(invocation.administer(work), as_json=as_json, empty=empty, columns=columns)


def _agent_command(verb: str) -> None:
    @agent.command(verb, help=f"{verb.capitalize()} an agent. Only the requests of an active agent are served.")
    @click.argument("agent")
    @org_option
    @click.pass_obj
    def change(invocation: Invocation, agent: str, org: str | None) -> None:
        async def work(use_cases: Administration) -> str:
            organization = await invocation.organization(use_cases, org)
            found = await invocation.agent(use_cases, organization, agent)
            await use_cases.identity.set_agent_status(organization.id, found.id, _AGENT_STATUSES[verb])
            return found.name

        click.echo(f"{invocation.administer(work)} is {_AGENT_STATUSES[verb]}.")


for _verb in _AGENT_STATUSES:
    _agent_command(_verb)


@click.group()
def token() -> None:
    """Manage personal access tokens."""


@token.command("create")
@click.option("--name", required=True, help="A name for the token, such as its purpose.")
@click.option("--agent", help="Id or name of the only agent that the token works for. Default: any agent.")
@click.option(
    "--permissions",
    default="agent",
    show_default=True,
    help=f"{', '.join(NAMED_SETS)}, or a bitmask of permissions as a number.",
)
@click.option("--expires", help="The time span until it expires: 90s, 15m, 1h, 30d. Default: never.")
@org_option
@json_option
@click.pass_obj
def create_token(
    invocation: Invocation,
    name: str,
    agent: str | None,
    permissions: str,
    expires: str | None,
    org: str | None,
    *,
    as_json: bool,
) -> None:
    """Create a token and print it. It is shown only once."""
    granted = _permissions(permissions)
    expires_at = None if expires is None else datetime.now(UTC) + parse_time_span(expires)

    async def work(use_cases: Administration) -> PersonalAccessToken:
        organization = await invocation.organization(use_cases, org)
        agent_id = None if agent is None else (await invocation.agent(use_cases, organization, agent)).id
        grant = TokenGrant(name=name, permissions=granted, agent_id=agent_id, expires_at=expires_at)
        return await use_cases.identity.create_token(organization.id, grant)

    made = invocation.administer(work)
    if as_json:
        show_one({"id": str(made.token_id), "name": name, "token": made.reveal()}, as_json=True)
        return
    click.echo(made.reveal())
    click.echo("Store the token now: IBEX keeps only a hash of it and cannot show it again.", err=True)


@token.command("list")
@org_option
@json_option
@click.pass_obj
def list_tokens(invocation: Invocation, org: str | None, *, as_json: bool) -> None:
    """List the tokens of an organization, without their secrets."""
    now = datetime.now(UTC)

    async def work(use_cases: Administration) -> list[Row]:
        organization = await invocation.organization(use_cases, org)
        return [_token_row(found, now) for found in await use_cases.identity.tokens(organization.id)]

    columns = {
        "display_prefix": "token",
        "name": "name",
        "status": "status",
        "agent_id": "agent",
        "permissions": "permissions",
        "pepper": "pepper",
        "expires_at": "expires",
        "created_at": "created",
    }
    empty = "There is no token yet. Create one with `ibex token create`."
    show_rows(invocation.administer(work), as_json=as_json, empty=empty, columns=columns)


@token.command("revoke")
@click.argument("token")
@org_option
@click.pass_obj
def revoke_token(invocation: Invocation, token: str, org: str | None) -> None:
    """Revoke a token, given as its id, as ibex_pat_<id>, or as the whole token."""
    token_id = parse_uuid(token.removeprefix(_PREFIX).partition("_")[0])

    async def work(use_cases: Administration) -> None:
        organization = await invocation.organization(use_cases, org)
        await use_cases.identity.revoke_token(organization.id, token_id)

    invocation.administer(work)
    click.echo(f"{_PREFIX}{token_id} is revoked.")


def _permissions(text: str) -> Permission:
    if text in NAMED_SETS:
        return NAMED_SETS[text]
    try:
        return permissions_of(int(text, 0))
    except ValueError:
        raise click.BadParameter(f"{text!r} must be {', '.join(NAMED_SETS)} or a bitmask below 2^56.") from None


def _org_row(found: Organization) -> Row:
    return {
        "id": str(found.id),
        "name": found.name,
        "status": found.status.value,
        "rate_limit_rpm": found.rate_limit_rpm,
        "created_at": found.created_at,
    }


def _agent_row(found: NamedAgent) -> Row:
    return {
        "id": str(found.id),
        "org_id": str(found.org_id),
        "name": found.name,
        "status": found.status.value,
        "created_at": found.created_at,
    }


def _token_row(found: StoredToken, now: datetime) -> dict[str, Any]:
    names = {bitmap.value: name for name, bitmap in NAMED_SETS.items()}
    if found.revoked_at is not None:
        status = "revoked"
    elif found.expires_at is not None and found.expires_at <= now:
        status = "expired"
    else:
        status = "live"
    return {
        "id": str(found.id),
        "display_prefix": f"{_PREFIX}{found.id}",
        "name": found.name,
        "status": status,
        "agent_id": str(found.agent_id) if found.agent_id else None,
        "user_id": str(found.user_id) if found.user_id else None,
        "permissions": names.get(found.permissions.value, hex(found.permissions.value)),
        "pepper": found.key_id,
        "created_at": found.created_at,
        "expires_at": found.expires_at,
        "revoked_at": found.revoked_at,
    }
