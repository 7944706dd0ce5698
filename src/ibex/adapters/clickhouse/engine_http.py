"""ClickHouse's HTTP interface for the embedded engine, as an ASGI application.

It implements the part that clients of IBEX need: statements in the body or in ``query``, rows after an INSERT, settings
and ``param_`` values as URL parameters or form fields, compressed bodies, formats, errors with their code, user and
password. It buffers each result before it sends it. It does not support sessions and external tables.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl
from uuid import uuid4

from ibex.adapters.clickhouse import content_coding
from ibex.adapters.clickhouse.engine_statements import UNKNOWN, EngineError, EngineStatement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from concurrent.futures import Executor

    from ibex.adapters.clickhouse.engine_statements import Engine, StatementResult

    Scope = Mapping[str, Any]
    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_BODY_BYTES: Final = 256 << 20
# Parameters of the HTTP interface itself. Every other parameter is a setting of the statement.
_OWN_PARAMETERS: Final = frozenset(
    {
        *("query", "database", "default_format", "user", "password", "query_id", "quota_key", "role"),
        *("session_id", "session_timeout", "session_check", "close_session"),
        *("compress", "decompress", "buffer_size", "wait_end_of_query", "client_protocol_version", "stacktrace"),
    }
)
_AUTHENTICATION_FAILED: Final = 516
_REQUIRED_PASSWORD: Final = 194
_STATUSES: Final[Mapping[int, int]] = {
    _REQUIRED_PASSWORD: 401,
    _AUTHENTICATION_FAILED: 403,
    **dict.fromkeys((164, 497), 403),  # READONLY, ACCESS_DENIED
    **dict.fromkeys((36, 46, 47, 50, 56, 60, 81, 115), 404),  # UNKNOWN_TABLE and others
    **dict.fromkeys((6, 26, 27, 33, 38, 41, 53, 62, 70, 72, 108, 117, 130, 456, 457), 400),  # malformed
    48: 501,  # NOT_IMPLEMENTED
    159: 408,  # TIMEOUT_EXCEEDED
}
_CONTENT_TYPES: Final[Mapping[str, str]] = {
    "": "text/plain",
    "JSON": "application/json",
    "Native": "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    body: bytes
    headers: Mapping[str, str]


class _ProtocolError(Exception):
    """The HTTP request is invalid or not supported. ``code`` is ClickHouse's error code."""

    def __init__(self, code: int, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = f"Code: {code}. DB::Exception: {text}"
        self.status = status


class EngineHttp:
    """The ASGI application. Statements run in ``executor``, whose size limits the number of concurrent statements."""

    def __init__(self, engine: Engine, executor: Executor, user: str, password: str) -> None:
        self._engine = engine
        self._executor = executor
        self._user = user
        self._password = password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        response = await self._respond(scope, receive)
        headers = {"content-length": str(len(response.body)), **response.headers}
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    async def _respond(self, scope: Scope, receive: Receive) -> _Response:
        request_headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parameters = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if scope["method"] in {"GET", "HEAD"} and scope["path"] in {"/", "/ping"} and "query" not in parameters:
            return _Response(200, b"Ok.\n", {"content-type": "text/plain"})
        headers = {
            "x-clickhouse-query-id": parameters.get("query_id") or str(uuid4()),
            "x-clickhouse-server-display-name": "ibex",
            "x-clickhouse-timezone": "UTC",
        }
        try:
            self._authenticate(request_headers, parameters)
            body = await _read_body(receive)
            statement = _statement(scope["method"], scope["path"], request_headers, parameters, body)
            answer = await asyncio.get_running_loop().run_in_executor(self._executor, self._engine.run, statement)
        except (EngineError, _ProtocolError) as error:
            return _refusal(error, headers)
        accepted = (
            request_headers.get("accept-encoding", "") if parameters.get("enable_http_compression") == "1" else ""
        )
        return _success(answer, content_coding.choose(accepted), headers)

    def _authenticate(self, headers: Mapping[str, str], parameters: Mapping[str, str]) -> None:
        user, password = _credentials(headers, parameters)
        if not user and not password:
            raise _ProtocolError(_REQUIRED_PASSWORD, "Authentication is required. (REQUIRED_PASSWORD)")
        right_user = hmac.compare_digest(user.encode(), self._user.encode())
        right_password = hmac.compare_digest(password.encode(), self._password.encode())
        if not (right_user and right_password):
            raise _ProtocolError(
                _AUTHENTICATION_FAILED,
                "Authentication failed: password is incorrect, or there is no such user. (AUTHENTICATION_FAILED)",
            )


def _credentials(headers: Mapping[str, str], parameters: Mapping[str, str]) -> tuple[str, str]:
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        return headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", "")
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password
    return parameters.get("user", ""), parameters.get("password", "")


async def _read_body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise _ProtocolError(UNKNOWN, "The client has disconnected.")
        chunk = event.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise _ProtocolError(UNKNOWN, f"The request body is larger than {MAX_BODY_BYTES:,} bytes.", 413)
        chunks.append(chunk)
        more = event.get("more_body", False)
    return b"".join(chunks)


def _statement(
    method: str, path: str, headers: Mapping[str, str], parameters: dict[str, str], body: bytes
) -> EngineStatement:
    if path != "/" or method not in {"GET", "HEAD", "POST"}:
        raise _ProtocolError(UNKNOWN, "There is no resource of this name. (UNKNOWN)", 404)
    for wanted in ("compress", "decompress"):
        if parameters.get(wanted, "0") != "0":
            raise _ProtocolError(48, f"{wanted} is not supported; use Content-Encoding. (NOT_IMPLEMENTED)")
    body = _decoded(body, headers.get("content-encoding", ""))
    if headers.get("content-type", "").startswith("multipart/form-data"):
        parameters |= _form_fields(headers["content-type"], body)
        body = b""
    query = parameters.get("query", "").encode()
    text = query + b"\n" + body if query and body else query or body
    if not text.strip():
        raise _ProtocolError(62, "Syntax error: Empty query. (SYNTAX_ERROR)")
    return EngineStatement(
        text,
        settings={n: v for n, v in parameters.items() if n not in _OWN_PARAMETERS and not n.startswith("param_")},
        parameters={n.removeprefix("param_"): v for n, v in parameters.items() if n.startswith("param_")},
        database=parameters.get("database") or headers.get("x-clickhouse-database", ""),
        default_format=parameters.get("default_format") or headers.get("x-clickhouse-format", ""),
        read_only=method != "POST",
    )


def _decoded(body: bytes, coding: str) -> bytes:
    try:
        return content_coding.decode(body, coding.strip().lower())
    except content_coding.UnknownCodingError:
        raise _ProtocolError(48, "This Content-Encoding is not supported. (NOT_IMPLEMENTED)") from None
    except content_coding.MalformedBodyError:
        raise _ProtocolError(271, "Cannot decompress the body. (CANNOT_DECOMPRESS)", 400) from None


def _form_fields(content_type: str, body: bytes) -> dict[str, str]:
    form = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
    fields = {}
    for part in form.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None:
            raise _ProtocolError(48, "External tables are not supported. (NOT_IMPLEMENTED)")
        content = part.get_payload(decode=True)
        fields[str(name)] = content.decode() if isinstance(content, bytes) else ""
    return fields


def _success(answer: StatementResult, coding: str, headers: Mapping[str, str]) -> _Response:
    summary = {
        "read_rows": str(answer.read_rows),
        "written_rows": str(answer.written_rows),
        "result_bytes": str(len(answer.body)),
        "elapsed_ns": str(answer.elapsed_ns),
    }
    response_headers = {
        **headers,
        "content-type": _CONTENT_TYPES.get(answer.format, "text/plain; charset=UTF-8"),
        "x-clickhouse-summary": json.dumps(summary),
    }
    if answer.format:
        response_headers["x-clickhouse-format"] = answer.format
    if coding:
        response_headers["content-encoding"] = coding
    return _Response(200, content_coding.encode(answer.body, coding), response_headers)


def _refusal(error: EngineError | _ProtocolError, headers: Mapping[str, str]) -> _Response:
    status = getattr(error, "status", None) or _STATUSES.get(error.code, 500)
    code = str(error.code)
    response_headers = {**headers, "content-type": "text/plain; charset=UTF-8", "x-clickhouse-exception-code": code}
    if status == 401:  # noqa: PLR2004 - RFC 9110, section 15.5.2
        response_headers["www-authenticate"] = 'Basic realm="ClickHouse"'
    return _Response(status, error.text.encode() + b"\n", response_headers)
