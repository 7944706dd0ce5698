"""Tests of ClickHouse's HTTP interface over an engine that records its statements."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID

import pytest

from harness.content_codings import CODINGS
from ibex.adapters.clickhouse import content_coding, engine_http
from ibex.adapters.clickhouse.engine_http import EngineHttp
from ibex.adapters.clickhouse.engine_statements import EngineError, EngineStatement, StatementResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

USER, PASSWORD = "somebody", "s3cret: with a colon"
BASIC = {"authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}


class RecordingEngine:
    """Returns one row for every statement, or raises the error of a test."""

    def __init__(self) -> None:
        self.statements: list[EngineStatement] = []
        self.error: Exception | None = None

    def run(self, statement: EngineStatement) -> StatementResult:
        """Record the statement."""
        self.statements.append(statement)
        if self.error is not None:
            raise self.error
        return StatementResult(b"1\tx\n" * 100, "TabSeparated", read_rows=7, written_rows=3, elapsed_ns=12)


@dataclass
class Http1Response:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Front:
    """The application under test and its engine."""

    app: EngineHttp
    engine: RecordingEngine = field(default_factory=RecordingEngine)

    async def ask(
        self,
        method: str = "POST",
        path: str = "/",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Http1Response:
        """Send one request, with its body in two parts."""
        half = len(body) // 2
        events: list[dict[str, Any]] = [
            {"type": "http.request", "body": body[:half], "more_body": True},
            {"type": "http.request", "body": body[half:], "more_body": False},
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return events.pop(0)

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": urlencode(query or {}).encode(),
            "headers": [
                (name.encode(), value.encode()) for name, value in (BASIC if headers is None else headers).items()
            ],
        }
        await self.app(scope, receive, send)
        start, end = sent
        said = {name.decode(): value.decode() for name, value in start["headers"]}
        return Http1Response(start["status"], said, end["body"])


@pytest.fixture
def front() -> Iterator[Front]:
    """An application with a recording engine."""
    engine = RecordingEngine()
    with ThreadPoolExecutor(1) as executor:
        yield Front(EngineHttp(engine, executor, USER, PASSWORD), engine)  # type: ignore[arg-type]


async def test_a_statement_in_the_body_is_run(front: Front) -> None:
    """Settings, bound values and database come from the URL, without the parameters of the interface itself."""
    query = {
        "database": "ibex",
        "param_a": "1",
        "max_threads": "2",
        "insert_deduplication_token": "t",
        "query_id": "q",
        "session_id": "s",
        "wait_end_of_query": "1",
        "client_protocol_version": "54405",
    }
    await front.ask(query=query, body=b"SELECT {a:UInt8}")
    (statement,) = front.engine.statements
    assert statement.text == b"SELECT {a:UInt8}"
    assert statement.settings == {"max_threads": "2", "insert_deduplication_token": "t"}
    assert statement.parameters == {"a": "1"}
    assert (statement.database, statement.read_only) == ("ibex", False)


async def test_rows_follow_a_statement_in_the_url(front: Front) -> None:
    """Statement and rows become one text."""
    await front.ask(query={"query": "INSERT INTO t FORMAT Native"}, body=b"\x01\x02")
    assert front.engine.statements[0].text == b"INSERT INTO t FORMAT Native\n\x01\x02"


async def test_a_get_is_read_only(front: Front) -> None:
    """Following a link must not change data."""
    await front.ask("GET", query={"query": "SELECT 1"})
    assert front.engine.statements[0].read_only


async def test_form_fields_are_parameters(front: Front) -> None:
    """Clients send values that are too long for a URL as a form."""
    form = (
        b'--x\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT {a:String}\r\n'
        b'--x\r\nContent-Disposition: form-data; name="param_a"\r\n\r\nl\xc3\xb6ng\r\n--x--\r\n'
    )
    await front.ask(headers={**BASIC, "content-type": "multipart/form-data; boundary=x"}, body=form)
    (statement,) = front.engine.statements
    assert (statement.text, statement.parameters, statement.settings) == (b"SELECT {a:String}", {"a": "l\u00f6ng"}, {})


async def test_the_response_describes_its_content(front: Front) -> None:
    """The response has the format, statistics, the query id and the time zone."""
    reply = await front.ask(query={"query_id": "my-id"}, body=b"SELECT 1")
    assert (reply.status, reply.body) == (200, b"1\tx\n" * 100)
    assert reply.headers["x-clickhouse-format"] == "TabSeparated"
    assert reply.headers["x-clickhouse-query-id"] == "my-id"
    assert reply.headers["x-clickhouse-timezone"] == "UTC"
    assert reply.headers["content-length"] == str(len(reply.body))
    summary = json.loads(reply.headers["x-clickhouse-summary"])
    assert (summary["read_rows"], summary["written_rows"], summary["elapsed_ns"]) == ("7", "3", "12")
    own = (await front.ask(body=b"SELECT 1")).headers["x-clickhouse-query-id"]
    assert str(UUID(own)) == own


@pytest.mark.parametrize("coding", CODINGS)
async def test_request_and_response_bodies_can_be_compressed(front: Front, coding: str) -> None:
    """A request names its coding; a response is compressed if the client accepts it."""
    text = b"SELECT 1 -- " + b"x" * 1_000
    reply = await front.ask(
        query={"enable_http_compression": "1"},
        headers={**BASIC, "content-encoding": coding, "accept-encoding": f"br, {coding}"},
        body=content_coding.encode(text, coding),
    )
    assert front.engine.statements[0].text == text
    assert reply.headers["content-encoding"] == coding
    assert content_coding.decode(reply.body, coding) == b"1\tx\n" * 100


async def test_a_response_is_not_compressed_unless_compression_is_enabled(front: Front) -> None:
    """ClickHouse's own server does the same."""
    reply = await front.ask(headers={**BASIC, "accept-encoding": "gzip"}, body=b"SELECT 1")
    assert "content-encoding" not in reply.headers


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({}, BASIC),
        ({}, {"x-clickhouse-user": USER, "x-clickhouse-key": PASSWORD}),
        ({"user": USER, "password": PASSWORD}, {}),
    ],
)
async def test_the_right_password_is_accepted(front: Front, query: dict[str, str], headers: dict[str, str]) -> None:
    """The credentials can be in any of three places."""
    assert (await front.ask(query=query, headers=headers, body=b"SELECT 1")).status == 200
    assert front.engine.statements[0].settings == {}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "194"),
        ({"authorization": "Basic not-base64"}, 401, "194"),
        ({"authorization": "Bearer x"}, 401, "194"),
        ({"authorization": "Basic " + base64.b64encode(f"{USER}:wrong".encode()).decode()}, 403, "516"),
        ({"authorization": "Basic " + base64.b64encode(f"other:{PASSWORD}".encode()).decode()}, 403, "516"),
        ({"x-clickhouse-user": USER}, 403, "516"),
        ({**BASIC, "x-clickhouse-user": USER, "x-clickhouse-key": "wrong"}, 403, "516"),
    ],
)
async def test_a_wrong_password_is_refused(front: Front, headers: dict[str, str], status: int, code: str) -> None:
    """The statement does not run, and the response contains no password."""
    reply = await front.ask(headers=headers, body=b"SELECT 1")
    assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (status, code)
    assert ("www-authenticate" in reply.headers) == (status == 401)
    assert PASSWORD.encode() not in reply.body
    assert front.engine.statements == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/ping"), ("HEAD", "/ping"), ("GET", "/")])
async def test_a_ping_needs_no_password(front: Front, method: str, path: str) -> None:
    """GET returns ``Ok.``, and HEAD returns only headers."""
    reply = await front.ask(method, path, headers={})
    assert (reply.status, reply.headers["content-length"]) == (200, "4")
    assert reply.body == (b"" if method == "HEAD" else b"Ok.\n")


@pytest.mark.parametrize(
    ("code", "status"), [(60, 404), (81, 404), (62, 400), (27, 400), (164, 403), (48, 501), (159, 408), (395, 500)]
)
async def test_an_engine_error_is_returned_with_its_code(front: Front, code: int, status: int) -> None:
    """The text is the engine's, and the status is the one that a server returns."""
    front.engine.error = EngineError(code, f"Code: {code}. DB::Exception: no. (NAME)")
    reply = await front.ask(body=b"SELECT 1")
    assert (reply.status, reply.headers["x-clickhouse-exception-code"]) == (status, str(code))
    assert reply.body == f"Code: {code}. DB::Exception: no. (NAME)\n".encode()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"path": "/elsewhere", "body": b"SELECT 1"}, 404),
        ({"method": "DELETE", "body": b"SELECT 1"}, 404),
        ({"body": b"  "}, 400),
        ({"query": {"decompress": "1"}, "body": b"SELECT 1"}, 501),
        ({"query": {"compress": "1"}, "body": b"SELECT 1"}, 501),
        ({"headers": {**BASIC, "content-encoding": "snappy"}, "body": b"SELECT 1"}, 501),
        ({"headers": {**BASIC, "content-encoding": "gzip"}, "body": b"SELECT 1"}, 400),
        (
            {
                "headers": {**BASIC, "content-type": "multipart/form-data; boundary=x"},
                "body": b'--x\r\nContent-Disposition: form-data; name="t"; filename="t"\r\n\r\n1\r\n--x--\r\n',
            },
            501,
        ),
    ],
)
async def test_an_unsupported_request_is_refused(front: Front, arguments: dict[str, Any], status: int) -> None:
    """It must not run as another statement."""
    reply = await front.ask(**arguments)
    assert reply.status == status
    assert "x-clickhouse-exception-code" in reply.headers
    assert front.engine.statements == []


async def test_the_size_of_a_body_is_limited(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more returns 413, and no statement runs."""
    monkeypatch.setattr(engine_http, "MAX_BODY_BYTES", 10)
    assert (await front.ask(body=b"SELECT  1 ")).status == 200
    assert (await front.ask(body=b"SELECT   1 ")).status == 413
    assert len(front.engine.statements) == 1
