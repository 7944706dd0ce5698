"""The security matrix, row by row: two proxy workers, auth in its own process, real PostgreSQL and Redis.

Row 6 also checks every response of the other rows: the envelope, its request id, and the absence of secrets.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from harness.production import Production
from harness.worker_connections import TRUSTS_NOBODY
from ibex.domain.identity.management import TokenGrant
from ibex.domain.identity.model import AgentStatus, PersonalAccessToken
from ibex.domain.identity.permissions import ADMIN, AGENT_DEFAULT, READ_ONLY, Permission
from ibex.entrypoints.administration import administration
from ibex.entrypoints.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.clickhouse import ClickHouseDatabase
    from harness.postgres import PostgresDatabase
    from harness.redis import RedisServer
    from ibex.entrypoints.administration import Administration

pytestmark = pytest.mark.integration

CANARY = "canary-prompt-5d1f"
DIRECTIVE_CANARY = "canary-directive-77ab"
SMALL_LIMIT = 3
TIMED = 100
TIMED_ROUNDS = 3
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": CANARY}]}


@dataclass(slots=True)
class Tenant:
    """An organization with agents in every state and tokens of every kind."""

    org_id: UUID
    agents: dict[AgentStatus, UUID] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def agent(self) -> str:
        """The active agent."""
        return str(self.agents[AgentStatus.ACTIVE])


async def _recorder(use_cases: Administration, name: str, rpm: int | None = None) -> Tenant:
    identity = use_cases.identity
    organization = await identity.create_organization(name, rpm)
    tenant = Tenant(organization.id)
    for status in AgentStatus:
        made = await identity.create_agent(organization.id, status.value)
        await identity.set_agent_status(organization.id, made.id, status)
        tenant.agents[status] = made.id
    active = tenant.agents[AgentStatus.ACTIVE]
    await use_cases.directives.set(organization.id, active, DIRECTIVE_CANARY, author="test")
    grants = {
        "good": TokenGrant("good", AGENT_DEFAULT),
        "bound": TokenGrant("bound", AGENT_DEFAULT, agent_id=active),
        "admin": TokenGrant("admin", ADMIN),
        "none": TokenGrant("none", Permission(0)),
        "read only": TokenGrant("read only", READ_ONLY),
        "expired": TokenGrant("expired", AGENT_DEFAULT, expires_at=datetime.now(UTC) - timedelta(seconds=1)),
        "revoked": TokenGrant("revoked", AGENT_DEFAULT),
    }
    for kind, grant in grants.items():
        token = await identity.create_token(organization.id, grant)
        tenant.tokens[kind] = token.reveal()
        if kind == "revoked":
            await identity.revoke_token(organization.id, token.token_id)
    return tenant


@dataclass(slots=True)
class Matrix:
    """The running processes, their tenants, and all responses so far."""

    production: Production
    address: str
    a: Tenant
    b: Tenant
    small: Tenant
    secrets: list[str]
    answers: list[httpx.Response] = field(default_factory=list)

    def ask(
        self,
        token: str | None,
        agent: str | None = None,
        *,
        path: str = "/v1/chat/completions",
        body: dict[str, Any] | None = None,
    ) -> httpx.Response:
        """Send a request over a separate connection, so that any worker may get it. Keep the response for row 6."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if agent is not None:
            headers["X-IBEX-Agent-ID"] = agent
        with httpx.Client(trust_env=False, verify=TRUSTS_NOBODY) as client:
            if path.endswith("completions") or body is not None:
                answer = client.post(self.address + path, json=body or BODY, headers=headers)
            else:
                answer = client.get(self.address + path, headers=headers)
        self.answers.append(answer)
        return answer


def _expect(answer: httpx.Response, status: int, code: str | None = None) -> None:
    assert (answer.status_code, (answer.json().get("error") or {}).get("code")) == (status, code), answer.text


@pytest.fixture(scope="module")
def matrix(
    module_postgres: PostgresDatabase,
    module_clickhouse: ClickHouseDatabase,
    module_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Matrix]:
    """All processes, started once."""
    folder = tmp_path_factory.mktemp("matrix")
    production = Production.over(module_postgres, module_clickhouse, module_redis.url, folder)
    settings = Settings.load(production.environ)

    async def settle() -> list[Tenant]:
        async with administration(settings) as use_cases:
            return [
                await _recorder(use_cases, "a"),
                await _recorder(use_cases, "b"),
                await _recorder(use_cases, "small", SMALL_LIMIT),
            ]

    a, b, small = asyncio.run(settle())
    try:
        production.start_auth()
        address = production.start_proxy(workers=2)
        secrets = [token[46:] for tenant in (a, b, small) for token in tenant.tokens.values()]
        secrets += [production.environ["IBEX_AUTH_SERVICE_TOKEN"], production.environ["IBEX_TOKEN_PEPPERS"][2:]]
        yield Matrix(production, address, a, b, small, secrets)
    finally:
        production.stop()


class TestRow1Token:
    """The token must be valid."""

    @pytest.mark.parametrize("authorization", [None, "Bearer", "Basic dXNlcjpwYXNz"])
    def test_a_missing_bearer_token_is_refused(self, matrix: Matrix, authorization: str | None) -> None:
        """The error is 401 MISSING_TOKEN."""
        headers = {"X-IBEX-Agent-ID": matrix.a.agent} | ({"Authorization": authorization} if authorization else {})
        answer = httpx.post(f"{matrix.address}/v1/chat/completions", json=BODY, headers=headers, trust_env=False)
        matrix.answers.append(answer)
        _expect(answer, 401, "MISSING_TOKEN")

    def test_all_invalid_tokens_get_the_same_response(self, matrix: Matrix) -> None:
        """Malformed, wrong checksum, unknown, wrong secret, expired and revoked: 401 INVALID_TOKEN with one message."""
        good = matrix.a.tokens["good"]
        unknown = PersonalAccessToken.issue(uuid4(), bytes(32)).reveal()
        other_secret = PersonalAccessToken.issue(UUID(good[9:45]), bytes(32)).reveal()
        wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
        tokens = ["garbage", wrong, unknown, other_secret, matrix.a.tokens["expired"], matrix.a.tokens["revoked"]]

        answers = [matrix.ask(token, matrix.a.agent) for token in tokens]

        for answer in answers:
            _expect(answer, 401, "INVALID_TOKEN")
        assert len({answer.json()["error"]["message"] for answer in answers}) == 1

    def test_a_valid_token_is_accepted(self, matrix: Matrix) -> None:
        """The agent is that of the header, or the one to which the token is bound."""
        _expect(matrix.ask(matrix.a.tokens["good"], matrix.a.agent), 200)
        _expect(matrix.ask(matrix.a.tokens["bound"]), 200)


class TestRow2Agent:
    """The token must be allowed to act as the agent."""

    def test_a_missing_agent_is_refused(self, matrix: Matrix) -> None:
        """The error is 400 MISSING_AGENT_ID."""
        _expect(matrix.ask(matrix.a.tokens["good"]), 400, "MISSING_AGENT_ID")

    def test_an_agent_id_that_is_not_a_uuid_is_refused(self, matrix: Matrix) -> None:
        """The error is 400 VALIDATION_ERROR and names the header."""
        answer = matrix.ask(matrix.a.tokens["good"], "assistant")
        _expect(answer, 400, "VALIDATION_ERROR")
        assert answer.json()["error"]["field_errors"][0]["field"] == "X-IBEX-Agent-ID"

    def test_an_agent_of_another_organization_is_refused(self, matrix: Matrix) -> None:
        """Unknown agents, foreign agents, and any other agent than that of a bound token get 403, never 404."""
        for token, agent in (("good", str(uuid4())), ("good", matrix.b.agent), ("bound", matrix.b.agent)):
            _expect(matrix.ask(matrix.a.tokens[token], agent), 403, "AGENT_NOT_AUTHORIZED")
        paused = str(matrix.a.agents[AgentStatus.PAUSED])
        _expect(matrix.ask(matrix.a.tokens["bound"], paused), 403, "AGENT_NOT_AUTHORIZED")

    @pytest.mark.parametrize("status", [AgentStatus.PAUSED, AgentStatus.SUSPENDED, AgentStatus.ARCHIVED])
    def test_an_inactive_agent_is_refused(self, matrix: Matrix, status: AgentStatus) -> None:
        """The error is 403 AGENT_SUSPENDED."""
        _expect(matrix.ask(matrix.a.tokens["good"], str(matrix.a.agents[status])), 403, "AGENT_SUSPENDED")


class TestRow3Tenants:
    """Tenants are isolated, also in the timing of responses."""

    def test_a_foreign_agent_is_refused_in_equal_time(self, matrix: Matrix) -> None:
        """The error is 403 for both tenants. The 95th percentiles of 100 requests differ by less than 5 ms.

        The best of three rounds counts: a timing leak shows in each round, the load of the machine does not.
        """
        differences = []
        for _ in range(TIMED_ROUNDS):
            took = self._times(matrix)
            p95 = {name: statistics.quantiles(times, n=20)[-1] for name, times in took.items()}
            differences.append(abs(p95["a"] - p95["b"]))

        assert min(differences) < 0.005, differences

    def _times(self, matrix: Matrix) -> dict[str, list[float]]:
        took: dict[str, list[float]] = {"a": [], "b": []}
        with httpx.Client(base_url=matrix.address, trust_env=False) as client:
            for _ in range(TIMED):
                for name, token, agent in (
                    ("a", matrix.a.tokens["good"], matrix.b.agent),
                    ("b", matrix.b.tokens["good"], matrix.a.agent),
                ):
                    headers = {"Authorization": f"Bearer {token}", "X-IBEX-Agent-ID": agent}
                    started = time.perf_counter()
                    answer = client.get("/v1/internal/auth-probe", headers=headers)
                    took[name].append(time.perf_counter() - started)
                    _expect(answer, 403, "AGENT_NOT_AUTHORIZED")
        return took

    def test_the_path_of_another_organization_is_refused(self, matrix: Matrix) -> None:
        """The error is 403 even for an admin token. The path of the token's own organization works."""
        for tenant, status in ((matrix.a, 200), (matrix.b, 403)):
            path = f"/v1/orgs/{tenant.org_id}/chat/completions"
            answer = matrix.ask(matrix.a.tokens["admin"], matrix.a.agent, path=path)
            assert answer.status_code == status

    def test_a_response_of_another_organization_is_not_found(self, matrix: Matrix) -> None:
        """This holds in every worker. The agent that received the response can continue it."""
        asked = {"model": "gpt-4o", "input": CANARY, "instructions": "Be kind."}
        own, other = matrix.a.tokens["bound"], matrix.b.tokens["bound"]
        first = matrix.ask(own, path="/v1/responses", body=asked)
        streamed = matrix.ask(own, path="/v1/responses", body=asked | {"stream": True})
        _expect(first, 200)
        assert streamed.text.count('"instructions":"Be kind."') == 3
        previous = asked | {"previous_response_id": first.json()["id"]}
        for _ in range(8):
            _expect(matrix.ask(other, path="/v1/responses", body=previous), 400, "previous_response_not_found")
            answer = matrix.ask(other, path=f"/v1/responses/{first.json()['id']}")
            _expect(answer, 404, "previous_response_not_found")
            _expect(matrix.ask(own, path="/v1/responses", body=previous), 200)


class TestRow4Rate:
    """The rate limit of an organization applies."""

    def test_the_remaining_limit_is_shared_by_all_workers(self, matrix: Matrix) -> None:
        """The request over the limit is refused with 429 and a retry delay. Another organization is not affected."""
        while True:  # a minute may end in between
            answers = [matrix.ask(matrix.small.tokens["bound"]) for _ in range(SMALL_LIMIT + 1)]
            if len({answer.headers["x-ratelimit-reset"] for answer in answers}) == 1:
                break

        assert [int(answer.headers["x-ratelimit-remaining"]) for answer in answers] == [2, 1, 0, 0]
        _expect(answers[-1], 429, "RATE_LIMITED")
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        assert 0 <= int(answers[-1].headers["x-ratelimit-reset"]) - time.time() <= 60
        _expect(matrix.ask(matrix.b.tokens["bound"]), 200)

    def test_an_outage_of_redis_refuses_no_request(self, matrix: Matrix, module_redis: RedisServer) -> None:
        """Requests succeed while Redis hangs and after it continues."""
        _expect(matrix.ask(matrix.a.tokens["bound"]), 200)
        module_redis.pause()
        try:
            for _ in range(10):
                _expect(matrix.ask(matrix.a.tokens["bound"]), 200)
        finally:
            module_redis.resume()
        _expect(matrix.ask(matrix.a.tokens["bound"]), 200)


class TestRow5Permissions:
    """The token must have the permission."""

    @pytest.mark.parametrize(("token", "status"), [("none", 403), ("read only", 403), ("admin", 200)])
    def test_chat_requires_its_permissions(self, matrix: Matrix, token: str, status: int) -> None:
        """A token without permissions or with read-only ones is refused. An admin token is accepted."""
        answer = matrix.ask(matrix.a.tokens[token], matrix.a.agent)
        _expect(answer, status, "INSUFFICIENT_PERMISSIONS" if status == 403 else None)


class TestRow6Envelope:
    """Responses and records reveal no secrets."""

    def test_every_error_has_an_envelope(self, matrix: Matrix) -> None:
        """Each error is JSON with all members of the envelope and the request id of the header."""
        for path in ("/nothing", "/v1/models"):
            matrix.ask(None, path=path)
        errors = [answer for answer in matrix.answers if answer.status_code >= 400]
        assert {answer.status_code for answer in errors} >= {401, 404}

        for answer in errors:
            error: dict[str, Any] = answer.json()["error"]
            assert {"code", "type", "message", "param", "request_id", "timestamp"} <= set(error)
            assert error["request_id"] == answer.headers["x-request-id"]
            assert answer.headers["x-ibex-error-source"] == "proxy"

    def test_no_response_contains_secrets(self, matrix: Matrix) -> None:
        """No response contains a token, a pepper or a directive. Only the response of the echo contains the prompt."""
        for answer in matrix.answers:
            shown = f"{answer.text} {answer.headers}"
            assert DIRECTIVE_CANARY not in shown
            assert not any(secret in shown for secret in matrix.secrets)
            assert answer.status_code == 200 or CANARY not in shown

    def test_no_log_metric_table_or_file_contains_secrets(
        self,
        matrix: Matrix,
        module_postgres: PostgresDatabase,
        module_clickhouse: ClickHouseDatabase,
        module_redis: RedisServer,
    ) -> None:
        """This covers logs, metrics, Redis, PostgreSQL without directives, ClickHouse and the journals."""
        metrics = httpx.get(f"{matrix.address}/metrics", trust_env=False).text
        sinks = {
            "log": "\n".join(line for process in matrix.production.processes for line in process.lines),
            "metrics": metrics,
            "redis": _everything_in_redis(module_redis, directives=False),
            "directives in redis": _everything_in_redis(module_redis, directives=True),
            "postgres": module_postgres.dump(without=("directive_versions",)),
            "clickhouse": module_clickhouse.dump(),
            "journal": b"".join(
                path.read_bytes() for path in (matrix.production.folder / "journal").rglob("*") if path.is_file()
            ).decode("latin-1"),
        }
        for sink, content in sinks.items():
            assert content, sink
            secrets = [*matrix.secrets, CANARY] + ([] if sink == "directives in redis" else [DIRECTIVE_CANARY])
            assert [secret for secret in secrets if secret in content] == [], sink


def _everything_in_redis(server: RedisServer, *, directives: bool) -> str:
    """Return the content of Redis: either the shared directives, or everything else. All values are strings."""
    client = server.client()
    keys = [key for key in client.scan_iter() if (b":directive:" in key) is directives]
    return json.dumps([f"{key!r} {client.get(key)!r}" for key in keys])
