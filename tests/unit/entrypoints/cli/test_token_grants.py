"""Tokens created at the command line: agent, expiry, revocation and the secret."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.model import PersonalAccessToken
from ibex.domain.identity.permissions import AGENT_DEFAULT

if TYPE_CHECKING:
    from harness.cli_scene import CliScene
    from ibex.domain.identity.management import StoredToken


@pytest.fixture(autouse=True)
def _agent(ibex: CliScene) -> None:
    """Create an agent."""
    ibex.run("org", "create", "acme")
    ibex.run("agent", "create", "one")


def stored(ibex: CliScene) -> list[StoredToken]:
    """Return the stored tokens of the organization."""

    async def find() -> list[StoredToken]:
        (organization,) = await ibex.use_cases.identity.organizations()
        return list(await ibex.use_cases.identity.tokens(organization.id))

    return asyncio.run(find())


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_secret_is_printed_exactly_once(ibex: CliScene, options: list[str]) -> None:
    """It goes to standard output. No other output contains the secret or its digest."""
    done = ibex.run("token", "create", "--name", "t", *options)

    (kept,) = stored(ibex)
    text = done.out.strip() if not options else done.json["token"]
    token = PersonalAccessToken.parse(text)
    assert token is not None
    assert (done.out + done.err).count(text) == 1
    later = [ibex.run("token", "list"), ibex.run("token", "list", "--json"), ibex.run("token", "revoke", text)]
    printed = done.err + "".join(one.out + one.err for one in later)
    secret = text.removeprefix(token.display_prefix).strip("_").partition("_")[0]
    assert len(secret) > 20
    for canary in (secret, kept.digest.hex(), kept.digest.hex()[:16], kept.key_id + ":"):
        assert canary not in printed


@pytest.mark.parametrize(
    ("option", "code", "said"), [("--expires", 2, "is not a time span"), ("--agent", 1, "There is no agent '' in")]
)
def test_an_empty_restriction_is_refused(ibex: CliScene, option: str, code: int, said: str) -> None:
    """Otherwise an unset shell variable would create a token without expiry or agent."""
    done = ibex.run("token", "create", "--name", "t", option, "")

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert stored(ibex) == []


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_token_is_bound_to_the_given_agent(ibex: CliScene, by: str) -> None:
    """``--agent`` accepts the name or the id. Without it, the token is bound to no agent."""
    agent = ibex.run("agent", "list", "--json").json[0]

    ibex.run("token", "create", "--name", "bound", "--agent", agent[by])
    ibex.run("token", "create", "--name", "free")

    rows = ibex.run("token", "list", "--json").json
    assert {row["name"]: row["agent_id"] for row in rows} == {"bound": agent["id"], "free": None}


@pytest.mark.parametrize(
    ("span", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("30d", timedelta(days=30)),
    ],
)
def test_a_token_expires_after_its_span(ibex: CliScene, span: str, length: timedelta) -> None:
    """The span begins when the token is created. Without one, the token does not expire."""
    before = datetime.now(UTC)
    ibex.run("token", "create", "--name", "t", "--expires", span)
    ibex.run("token", "create", "--name", "for ever")
    after = datetime.now(UTC)

    brief, lasting = stored(ibex)
    assert brief.expires_at is not None
    assert before + length <= brief.expires_at <= after + length
    assert lasting.expires_at is None


def test_a_token_is_live_expired_or_revoked(ibex: CliScene) -> None:
    """A revoked token stays revoked after it has expired."""
    (org,) = ibex.run("org", "list", "--json").json
    past = datetime.now(UTC) - timedelta(seconds=1)

    async def make(name: str, expires_at: datetime | None) -> None:
        grant = TokenGrant(name, AGENT_DEFAULT, expires_at=expires_at)
        await ibex.use_cases.identity.create_token(UUID(org["id"]), grant)

    for name, expires_at in (("live", None), ("expired", past), ("revoked", past)):
        asyncio.run(make(name, expires_at))
    gone = next(row["id"] for row in ibex.run("token", "list", "--json").json if row["name"] == "revoked")
    ibex.run("token", "revoke", gone)

    rows = ibex.run("token", "list", "--json").json

    assert [row["status"] for row in rows] == [row["name"] for row in rows]
    assert [row["revoked_at"] is not None for row in rows] == [False, False, True]


def test_another_organizations_token_cannot_be_revoked(ibex: CliScene) -> None:
    """The error is the same as for a token that does not exist."""
    made = ibex.run("token", "create", "--name", "t", "--json").json["id"]
    ibex.run("org", "create", "globex")

    done = ibex.run("token", "revoke", made, "--org", "globex")

    assert (done.code, done.err) == (1, "ibex: The organization has no such token.\n")
    assert [row["status"] for row in ibex.run("token", "list", "--org", "acme", "--json").json] == ["live"]
