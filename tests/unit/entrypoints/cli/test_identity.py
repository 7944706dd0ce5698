"""Organizations, agents and tokens at the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from ibex.domain.identity.model import PersonalAccessToken

if TYPE_CHECKING:
    from harness.cli_scene import CliScene


def test_an_organization_is_created_listed_and_suspended(ibex: CliScene) -> None:
    """The table shows its own rate limit, or a dash for the default."""
    made = ibex.run("org", "create", "acme", "--rpm", "60", "--json").json
    ibex.run("org", "create", "globex")

    assert (made["name"], made["status"], made["rate_limit_rpm"]) == ("acme", "active", 60)
    assert ibex.run("org", "suspend", "acme").out == "acme is suspended.\n"
    assert [o["status"] for o in ibex.run("org", "list", "--json").json] == ["suspended", "active"]
    table = ibex.run("org", "list").out
    assert "60" in table
    assert " - " in table
    assert ibex.run("org", "activate", made["id"]).out == "acme is active.\n"


def test_the_rate_limit_of_an_organization_is_changed(ibex: CliScene) -> None:
    """The command takes a name or an id, and prints the limit that was in force before. The list shows the new one."""
    made = ibex.run("org", "create", "acme", "--rpm", "60", "--json").json
    ibex.run("org", "create", "globex", "--rpm", "7")

    limits = (("acme", "--rpm", "100"), (made["id"], "--rpm", "0"), ("acme", "--rpm", "1"), ("acme", "--default-rpm"))
    said = [ibex.run("org", "set", name, *limit).out for name, *limit in limits]

    assert said == [
        "acme: 100 requests per minute (before: 60 requests per minute).\n",
        "acme: unlimited (before: 100 requests per minute).\n",
        "acme: 1 request per minute (before: unlimited).\n",
        "acme: the default limit, IBEX_RATE_LIMIT_DEFAULT_RPM (before: 1 request per minute).\n",
    ]
    assert ibex.run("org", "set", "acme", "--rpm", "5", "--json").json == {**made, "rate_limit_rpm": 5}
    assert [o["rate_limit_rpm"] for o in ibex.run("org", "list", "--json").json] == [5, 7]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("globex --rpm 5", 1, "There is no organization 'globex'. `ibex org list` lists them."),
        ("acme", 2, "either --rpm N (0 for unlimited) or --default-rpm"),
        ("acme --rpm 5 --default-rpm", 2, "either --rpm N (0 for unlimited) or --default-rpm"),
        ("acme --rpm 0 --default-rpm", 2, "either --rpm N (0 for unlimited) or --default-rpm"),
        ("acme --rpm -1", 2, "'-1' is not a number of requests per minute from 0 (unlimited) to 2147483647."),
        ("acme --rpm 2147483648", 2, "'2147483648' is not a number of requests"),
        ("acme --rpm fast", 2, "'fast' is not a number of requests"),
        ("acme --rpm 1.5", 2, "'1.5' is not a number of requests"),
        ("--rpm 5", 2, "Missing argument 'ORGANIZATION'"),
    ],
)
def test_a_rate_limit_that_cannot_be_set_is_an_error(ibex: CliScene, arguments: str, code: int, said: str) -> None:
    """The message has the value that was found. No organization is changed."""
    ibex.run("org", "create", "acme", "--rpm", "60")

    done = ibex.run("org", "set", *arguments.split())

    assert (done.code, done.out) == (code, "")
    assert said in " ".join(done.err.split())
    assert [o["rate_limit_rpm"] for o in ibex.run("org", "list", "--json").json] == [60]


def test_a_duplicate_name_is_an_error(ibex: CliScene) -> None:
    """The command exits with 1."""
    ibex.run("org", "create", "acme")

    done = ibex.run("org", "create", "acme")

    assert (done.code, done.err) == (1, "ibex: An organization with this name already exists.\n")


@pytest.mark.parametrize(
    ("verb", "status"),
    [("pause", "paused"), ("suspend", "suspended"), ("archive", "archived"), ("activate", "active")],
)
def test_each_state_of_an_agent_has_a_command(ibex: CliScene, verb: str, status: str) -> None:
    """The command accepts the name, and the list shows the new state."""
    ibex.run("org", "create", "acme")
    ibex.run("agent", "create", "one")

    assert ibex.run("agent", verb, "one").out == f"one is {status}.\n"
    assert [a["status"] for a in ibex.run("agent", "list", "--json").json] == [status]


def test_a_new_token_is_the_only_output(ibex: CliScene) -> None:
    """A script can read it from standard output. No list contains the token or its digest."""
    ibex.run("org", "create", "acme")
    ibex.run("agent", "create", "one")

    done = ibex.run("token", "create", "--name", "laptop", "--agent", "one", "--expires", "30d")

    token = PersonalAccessToken.parse(done.out.strip())
    assert token is not None
    for listed in (ibex.run("token", "list"), ibex.run("token", "list", "--json")):
        assert token.display_prefix in listed.out
        assert token.reveal()[46:] not in listed.out
        assert "digest" not in listed.out
    (row,) = ibex.run("token", "list", "--json").json
    assert (row["name"], row["status"], row["permissions"]) == ("laptop", "live", "agent")
    remaining = datetime.fromisoformat(row["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < remaining <= timedelta(days=30)


def test_a_token_is_revoked_by_id_prefix_or_value(ibex: CliScene) -> None:
    """The output never contains the whole token."""
    ibex.run("org", "create", "acme")
    made = [ibex.run("token", "create", "--name", "t", "--json").json for _ in range(3)]
    names = [made[0]["id"], f"ibex_pat_{made[1]['id']}", made[2]["token"]]

    said = [ibex.run("token", "revoke", name).out for name in names]

    assert said == [f"ibex_pat_{one['id']} is revoked.\n" for one in made]
    assert {row["status"] for row in ibex.run("token", "list", "--json").json} == {"revoked"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["revoke", str(UUID(int=9))], 1, "no such token"),
        (["revoke", "laptop"], 2, "is not an id"),
        (["create", "--name", "t", "--permissions", "everything"], 2, "must be agent"),
        (["create", "--name", "t", "--permissions", hex(1 << 60)], 2, "bitmask"),
        (["create", "--name", "t", "--expires", "soon"], 2, "time span"),
        (["create", "--name", "t", "--expires", "0s"], 2, "time span"),
        (["create", "--name", "t", "--expires", ""], 2, "time span"),
        (["create", "--name", "t", "--agent", ""], 1, "no agent"),
        (["create", "--name", "t", "--agent", "nobody"], 1, "no agent"),
    ],
)
def test_an_invalid_command_is_an_error(ibex: CliScene, arguments: list[str], code: int, said: str) -> None:
    """No token is created."""
    ibex.run("org", "create", "acme")

    done = ibex.run("token", *arguments)

    assert done.code == code
    assert said in done.err
    assert ibex.run("token", "list").out.startswith("There is no token yet. ")


@pytest.mark.parametrize(("permissions", "shown"), [("admin", "admin"), ("0x10001", "0x10001"), ("3", "0x3")])
def test_permissions_are_a_name_or_a_bitmask(ibex: CliScene, permissions: str, shown: str) -> None:
    """Named sets are shown by their name."""
    ibex.run("org", "create", "acme")

    ibex.run("token", "create", "--name", "t", "--permissions", permissions)

    assert [row["permissions"] for row in ibex.run("token", "list", "--json").json] == [shown]


def test_a_rate_limit_out_of_range_is_wrong_usage(ibex: CliScene) -> None:
    """The maximum is the largest integer that the database column can hold."""
    done = ibex.run("org", "create", "acme", "--rpm", "99999999999999")
    assert (done.code, done.out) == (2, "")
    assert "2147483647" in done.err
    assert ibex.run("org", "create", "acme", "--rpm", "2147483647", "--json").json["rate_limit_rpm"] == 2_147_483_647
