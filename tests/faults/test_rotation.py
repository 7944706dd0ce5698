"""Secrets and certificates that change under load: no request fails, and the new value is really in use.

Each test prints its figures: ``pytest -s tests/faults/test_rotation.py | grep rotated``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
import trustme

from harness.rotation import PASSWORDS, REDIS_PASSWORD, RotatingStack, rotating_stack, wait_until
from ibex.adapters.grpc.generated import auth_pb2, auth_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

LOOPBACK: Final = "127.0.0.1"
OLD_TOKEN, NEW_TOKEN = "old-service-token-for-tests-0123456789", "new-service-token-for-tests-9876543210"
OLD_PEPPER, NEW_PEPPER = (
    "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "k2:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
)
DATABASE: Final = "postgresql://{role}:{password}@/ibex?{{postgres}}"
REFUSED: Final = grpc.StatusCode.FAILED_PRECONDITION
REDIS: Final = "redis://ibex:{password}@127.0.0.1:{{redis}}/0"
VALUES: Final = {
    "OPENAI_API_KEY": "sk-old",
    "IBEX_DATABASE_URL": DATABASE.format(role="ibex_app", password=PASSWORDS["ibex_app"]),
    "IBEX_AUTH_DATABASE_URL": DATABASE.format(role="ibex_auth", password=PASSWORDS["ibex_auth"]),
    "IBEX_CLICKHOUSE_URL": "{clickhouse}",
    "IBEX_REDIS_URL": REDIS.format(password=REDIS_PASSWORD),
    "IBEX_TOKEN_PEPPERS": OLD_PEPPER,
    "IBEX_AUTH_SERVICE_TOKENS": OLD_TOKEN,
}
SETTINGS: Final = {
    "IBEX_AUTH_CACHE_SIZE": "1",  # so that requests keep asking auth, Redis and PostgreSQL
    "IBEX_AUTH_CERT_FILE": "{folder}/auth.pem",
    "IBEX_AUTH_KEY_FILE": "{folder}/auth.key",
    "IBEX_AUTH_CLIENT_CA_FILE": "{folder}/client-ca.pem",
    "IBEX_AUTH_CA_FILE": "{folder}/server-ca.pem",
    "IBEX_AUTH_CLIENT_CERT_FILE": "{folder}/proxy.pem",
    "IBEX_AUTH_CLIENT_KEY_FILE": "{folder}/proxy.key",
}


def issued(authority: trustme.CA, name: str, *identities: str) -> dict[str, str]:
    """Return a new certificate and its key as files of a name."""
    leaf = authority.issue_cert(*identities)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    return {f"{name}.pem": chain.decode(), f"{name}.key": leaf.private_key_pem.bytes().decode()}


def pem(*authorities: trustme.CA) -> str:
    """Return the certificates of authorities as one file."""
    return "".join(authority.cert_pem.bytes().decode() for authority in authorities)


@pytest.fixture(scope="module")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    """The old and the new authority of both ends."""
    return trustme.CA(), trustme.CA()


@pytest.fixture(scope="module")
def running(authorities: tuple[trustme.CA, trustme.CA]) -> Iterator[RotatingStack]:
    """Two auth replicas and a proxy with two workers, all of whose secrets are in files."""
    old, _ = authorities
    files = {
        **issued(old, "auth", LOOPBACK),
        **issued(old, "proxy", "proxy.example"),
        "client-ca.pem": pem(old),
        "server-ca.pem": pem(old),
    }
    with rotating_stack(VALUES, files, SETTINGS) as stack:
        yield stack


def test_the_providers_key_is_rotated(running: RotatingStack) -> None:
    """The next requests carry the new key."""
    with running.load("OPENAI_API_KEY_FILE") as rotation:
        rotation.seconds["in use after s"] = running.rotate({"OPENAI_API_KEY": "sk-new\n"}, proxy="OPENAI_API_KEY_FILE")
        count = len(running.provider.requests)
        wait_until(lambda: len(running.provider.requests) > count + 50)
        keys = {request.header("authorization") for request in running.provider.requests[count + 10 :]}

    assert running.provider.requests[0].header("authorization") == "Bearer sk-old"
    assert keys == {"Bearer sk-new"}


def answer(running: RotatingStack, token: str, authority: trustme.CA) -> grpc.StatusCode:
    """Return the status of a call on a new connection to each auth replica, which must be the same.

    The caller has a certificate of this authority and trusts no other.
    """
    own = issued(authority, "test", "proxy.example")
    key, chain = own["test.key"].encode(), own["test.pem"].encode()
    credentials = grpc.ssl_channel_credentials(pem(authority).encode(), key, chain)
    answers = []
    for port in running.auth_ports:
        with grpc.secure_channel(f"{LOOPBACK}:{port}", credentials) as channel:
            try:
                auth_pb2_grpc.AuthServiceStub(channel).TokenFilter(
                    auth_pb2.TokenFilterRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=10
                )
            except grpc.RpcError as error:
                answers.append(error.code())
            else:
                answers.append(grpc.StatusCode.OK)
    (same,) = set(answers)
    return same


def test_the_service_token_is_rotated(running: RotatingStack, authorities: tuple[trustme.CA, trustme.CA]) -> None:
    """Auth first knows the new token, proxies then present it, and auth then refuses the old one."""
    variable = "IBEX_AUTH_SERVICE_TOKENS"
    file = f"{variable}_FILE"
    old, _ = authorities
    assert answer(running, OLD_TOKEN, old) is grpc.StatusCode.OK
    assert answer(running, NEW_TOKEN, old) is REFUSED
    with running.load(file) as rotation:
        for step, tokens in (
            ("known", f"{NEW_TOKEN},{OLD_TOKEN}"),
            ("presented", f"{OLD_TOKEN},{NEW_TOKEN}"),
            ("alone", NEW_TOKEN),
        ):
            rotation.seconds[f"{step} after s"] = running.rotate({variable: tokens}, proxy=file, auth=file)

    assert answer(running, NEW_TOKEN, old) is grpc.StatusCode.OK
    assert answer(running, OLD_TOKEN, old) is REFUSED


def test_a_pepper_is_known_before_it_is_used(running: RotatingStack) -> None:
    """Tokens that are created with the new pepper are served at once, by all replicas."""
    variable = "IBEX_TOKEN_PEPPERS"
    ibex = running.stack.production.ibex
    agent_id = ibex("agent", "list", "--json")[0]["id"]
    create = ("token", "create", "--agent", agent_id, "--json", "--name")

    def pepper_of(made: dict[str, str]) -> str:
        found = ibex("token", "list", "--json")
        return str(next(token["pepper"] for token in found if token["id"] == made["id"]))

    with running.load(f"{variable}_FILE") as rotation:
        both = f"{NEW_PEPPER},{OLD_PEPPER}"
        rotation.seconds["known after s"] = running.rotate({variable: both}, auth=f"{variable}_FILE")
        before = ibex(*create, "before")
        both = f"{OLD_PEPPER},{NEW_PEPPER}"
        rotation.seconds["used after s"] = running.rotate({variable: both}, auth=f"{variable}_FILE")
        after = ibex(*create, "after")
        running.tokens += [before["token"], after["token"]]

    assert (pepper_of(before), pepper_of(after)) == ("k", "k2")


@pytest.mark.parametrize(
    ("variable", "role", "reader"),
    [("IBEX_DATABASE_URL", "ibex_app", "proxy"), ("IBEX_AUTH_DATABASE_URL", "ibex_auth", "auth")],
)
def test_a_database_password_is_rotated(running: RotatingStack, variable: str, role: str, reader: str) -> None:
    """The file changes before the server: until then, new connections use the old password."""
    host = running.stack.postgres.app_url.partition("?")[2]
    url = DATABASE.format(role=role, password=f"second-password-of-{role}-1c8a").format(postgres=host)
    with running.load(f"{variable}_FILE") as rotation:
        rotation.seconds["read after s"] = running.rotate({variable: url}, **{reader: f"{variable}_FILE"})
        running.reconnect(role)  # while the server only accepts the old password
        running.sql(f"ALTER ROLE {role} PASSWORD 'second-password-of-{role}-1c8a'")
        running.reconnect(role)


def test_the_password_of_redis_is_rotated(running: RotatingStack) -> None:
    """Redis accepts both passwords in between. Workers and auth then use new connections."""
    redis, variable = running.stack.redis, "IBEX_REDIS_URL"
    url = REDIS.format(password="second-redis-password-3e1b").format(redis=redis.port)

    def connections() -> set[str]:
        clients: Any = redis.client()
        return {client["id"] for client in clients.client_list() if client["user"] == "ibex"}

    former = connections()
    with running.load(f"{variable}_FILE") as rotation:
        redis.command("ACL", "SETUSER", "ibex", ">second-redis-password-3e1b")
        took = running.rotate({variable: url}, proxy=f"{variable}_FILE", auth=f"{variable}_FILE")
        rotation.seconds["in use after s"] = took
        redis.command("ACL", "SETUSER", "ibex", f"<{REDIS_PASSWORD}")
        wait_until(lambda: not former & connections())

    assert len(connections()) >= len(former)


def test_certificates_of_both_ends_are_rotated(
    running: RotatingStack, authorities: tuple[trustme.CA, trustme.CA]
) -> None:
    """Both ends first trust the new authority, then have its certificates, and then trust it alone."""
    old, new = authorities
    ends = {"proxy": "IBEX_AUTH_CA_FILE", "auth": "IBEX_AUTH_CERT_FILE"}
    with running.load("IBEX_AUTH_*_FILE") as rotation:
        both = pem(old, new)
        files = {"server-ca.pem": both, "client-ca.pem": both}
        rotation.seconds["trusted after s"] = running.rotate(files, **ends)
        files = {**issued(new, "auth", LOOPBACK), **issued(new, "proxy", "proxy.example")}
        rotation.seconds["presented after s"] = running.rotate(files, **ends)
        files = {"server-ca.pem": pem(new), "client-ca.pem": pem(new)}
        rotation.seconds["alone after s"] = running.rotate(files, **ends)

    token = running.secrets.path("IBEX_AUTH_SERVICE_TOKENS").read_text()
    assert answer(running, token, new) is grpc.StatusCode.OK
    assert answer(running, token, old) is grpc.StatusCode.UNAVAILABLE  # no TLS connection


@pytest.mark.parametrize(
    ("variable", "content"),
    [
        ("OPENAI_API_KEY", ""),
        ("OPENAI_API_KEY", "sk with a blank"),
        ("IBEX_AUTH_SERVICE_TOKENS", "short"),
        ("IBEX_REDIS_URL", "redis://ibex:not-the-password@127.0.0.1:{redis}/0"),
    ],
)
def test_an_unusable_file_keeps_the_old_value(running: RotatingStack, variable: str, content: str) -> None:
    """It is counted, logged with the variable and without its content, and readiness does not change."""
    file = f"{variable}_FILE"
    good = running.secrets.path(variable).read_text()
    ready = running.ready()
    with running.load(f"{file} to an unusable file"):
        before = running.reloads(file, "refused")[0]
        running.secrets.update({variable: content.format(redis=running.stack.redis.port)})
        wait_until(lambda: running.reloads(file, "refused")[0] >= before + 2)
        wait_until(lambda: running.ready() == ready)  # on a busy machine, one check can exceed its time limit
        running.secrets.update({variable: good})

    lines = [line for line in running.stack.production.processes[-1].lines if "cannot be used" in line and file in line]
    assert lines
    assert not content or not any(content in line for line in lines)
