"""The page about error codes. Codes, statuses, types, messages and headers come from the code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.reference.markdown import code, table

from ibex.adapters.http_server.errors import TABLE, status_of
from ibex.domain.errors import ErrorCode, FieldCode, IbexError, RetryableError
from ibex.domain.provider_errors import ProviderRefusal, ProviderRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION: Final = """\
# Errors

IBEX reports every error in one envelope, which OpenAI's SDKs raise as their own exceptions:

```json
{"error": {"code": "RATE_LIMITED", "type": "rate_limit_error",
           "message": "The organization has reached its limit of 3 requests per minute. Retry later.",
           "param": null, "request_id": "01a22e3c-d704-7804-ae08-74036737f582",
           "timestamp": "2026-11-30T20:54:28.872681Z"}}
```

| member | meaning |
|---|---|
| `code` | the code, for programs. If the provider refused the request and named a code, this is the provider's code |
| `ibex_code` | the code of this page, if `code` is the provider's |
| `type` | the type of the error, as OpenAI names it |
| `message` | what is wrong and what to do |
| `param` | the field or header that is wrong, else null |
| `field_errors` | each invalid field: its name, a reason, and what is allowed |
| `detail` | the provider's message, if the provider refused the request |
| `request_id` | the id of the request; `ibex traces show <id>` finds its trace |
| `timestamp` | when the error was reported |
| `docs_url` | the page about the code, if `IBEX_ERROR_DOCS_BASE` is set; this site has these pages under `errors/` |

Headers: `X-IBEX-Error-Source` is `proxy` or `provider`. `Retry-After` is the number of seconds to wait before a retry.
`X-Should-Retry: false` tells OpenAI's SDKs not to retry, because IBEX has tried several times or no retry can succeed.
After a stream has begun, an event contains the envelope, because the status has been sent.

A reason in `field_errors` is one of {fields}.

This page is generated from the code's own table of errors.

## All codes
"""

# By code: what it means, and what to do.
_TEXTS: Final = {
    ErrorCode.INVALID_JSON: (
        "The body is not one JSON object in UTF-8.",
        "Send one JSON object. If the client built it by hand, check quotes, commas and the encoding.",
    ),
    ErrorCode.VALIDATION_ERROR: (
        "A field or a header is invalid, or the request is not valid HTTP/1.1.",
        "Correct each field in `field_errors`. A retry of the same request fails again.",
    ),
    ErrorCode.INVALID_REQUEST: (
        "The provider refused the request. The status, the message and the code are the provider's.",
        (
            "Read `message`: it is the provider's reason. `X-IBEX-Provider-Request-ID` is the id that the provider's "
            "support needs."
        ),
    ),
    ErrorCode.MISSING_AGENT_ID: (
        "The request names no agent, and the token is bound to none.",
        "Send `X-IBEX-Agent-ID`, or create a token with `ibex token create --agent`.",
    ),
    ErrorCode.MISSING_TOKEN: (
        "The request has no bearer token.",
        "Send `Authorization: Bearer <token>`. SDKs do so with `api_key`.",
    ),
    ErrorCode.INVALID_TOKEN: (
        (
            "The token is malformed, unknown, expired or revoked, or its organization is suspended. The error is the "
            "same for all of these."
        ),
        "`ibex token list` shows the state of tokens, `ibex org list` that of organizations (`ibex org activate`).",
    ),
    ErrorCode.INSUFFICIENT_PERMISSIONS: (
        "The token lacks a permission, or the path names another organization.",
        "`ibex token list` shows the permissions. Create a token with `--permissions`, or correct the path.",
    ),
    ErrorCode.AGENT_NOT_AUTHORIZED: (
        "The agent is unknown, belongs to another organization, or the token is bound to another agent.",
        "Compare `X-IBEX-Agent-ID` with `ibex agent list` and the token's agent in `ibex token list`.",
    ),
    ErrorCode.AGENT_SUSPENDED: (
        "The agent is paused, suspended or archived.",
        "Run `ibex agent activate <name>`, or use another agent.",
    ),
    ErrorCode.NOT_FOUND: (
        "IBEX has no such route.",
        "The message lists the routes. The base URL of an SDK ends with `/v1`.",
    ),
    ErrorCode.METHOD_NOT_ALLOWED: (
        "The route exists, but not for this method.",
        "Use a method that the `Allow` header of the response lists.",
    ),
    ErrorCode.REQUEST_TIMEOUT: (
        "The body did not arrive in time. IBEX closes the connection.",
        "Check the network of the client. [Limits](../limits.md#time-for-a-body) has the times.",
    ),
    ErrorCode.PAYLOAD_TOO_LARGE: (
        "The body is larger than `IBEX_MAX_REQUEST_BODY_BYTES`.",
        "Send a smaller body, for example with URLs instead of images, or raise the setting.",
    ),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (
        "The body is not declared as JSON, or it is compressed.",
        "Send `Content-Type: application/json` and no `Content-Encoding`.",
    ),
    ErrorCode.UPGRADE_REFUSED: (
        "The request asks for WebSocket.",
        "Use HTTP, with `stream: true` for a stream.",
    ),
    ErrorCode.HEADERS_TOO_LARGE: (
        "Headers, trailers or chunk framing are too large or too many.",
        "Send fewer headers. Cookies of a web page are a frequent cause.",
    ),
    ErrorCode.RATE_LIMITED: (
        (
            "The organization has used its requests of this minute, or too many of its requests were refused in this "
            "minute, or the provider's own limit was reached: see `X-IBEX-Error-Source`."
        ),
        (
            "Wait for `Retry-After`. `ibex org list` shows the limits. If the provider's quota is used up, only its "
            "operator can help."
        ),
    ),
    ErrorCode.CLIENT_CLOSED_REQUEST: (
        "The client closed its request before the response ended. No client sees this code: it is in traces and logs.",
        "Raise the client's time limit, if it gave up too early.",
    ),
    ErrorCode.INTERNAL_ERROR: (
        "A bug in IBEX.",
        "Report it with the `request_id`. The proxy's log has the type of the exception and the lines that raised it.",
    ),
    ErrorCode.PROVIDER_NOT_CONFIGURED: (
        "No provider serves this model. `code` is `model_not_found`.",
        "`GET /v1/models` lists the models. `IBEX_OPENAI_MODELS` decides which ones IBEX forwards.",
    ),
    ErrorCode.RESPONSE_NOT_FOUND: (
        (
            "The organization has not received this response, or another agent did. `code` is "
            "`previous_response_not_found`. The status is 400 for `previous_response_id`."
        ),
        "Use the agent that received the response, or send the whole conversation as `input`.",
    ),
    ErrorCode.SERVICE_DEGRADED: (
        "A service that the request needs is unavailable: auth or PostgreSQL, or Redis for an earlier response.",
        "Retry. The operator finds the cause with `ibex doctor` and `/ready`.",
    ),
    ErrorCode.AUTH_UNAVAILABLE: (
        "The agent cannot be verified right now.",
        "Do the same as for `SERVICE_DEGRADED`.",
    ),
    ErrorCode.PROVIDER_UNAVAILABLE: (
        "The provider failed, could not be reached, or refused the proxy's key.",
        (
            "Retry. The access line has the cause: `connect_failure` names the host and the reason if IBEX cannot "
            "connect; `provider_status` 401 or 403 means that the provider refuses `OPENAI_API_KEY`."
        ),
    ),
    ErrorCode.OVERLOADED: (
        (
            "The proxy has no free request slot, no room for the body, no free connection to the provider, or too many "
            "requests in authentication."
        ),
        "Retry. If it happens often, add workers, or raise the limit: [limits](../limits.md).",
    ),
    ErrorCode.PROVIDER_TIMEOUT: (
        "The provider did not answer in time.",
        (
            "Retry, or send a request that takes less time. `OPENAI_REQUEST_TIMEOUT` and `IBEX_OPENAI_IDLE_TIMEOUT` "
            "are in [the configuration](../configuration.md)."
        ),
    ),
}


def page() -> str:
    """Return the text of the page. Raises ``KeyError`` for a code without a text here."""
    rows = [(f"[`{one}`](#{one.lower()})", _statuses(one), code(TABLE[one][1]), _retry(one)) for one in ErrorCode]
    fields = ", ".join(code(field) for field in FieldCode)
    lines = [_INTRODUCTION.replace("{fields}", fields), *table(("code", "status", "type", "retry"), rows)]
    for one in ErrorCode:
        meaning, action = _TEXTS[one]
        lines += ["", f"## {one}", "", f"Status {_statuses(one)}, `{TABLE[one][1]}`. {meaning}", "", f"*Do:* {action}"]
    return "\n".join([*lines, ""])


def _statuses(one: ErrorCode) -> str:
    if one is ProviderRefusedError.code:
        return ", ".join(str(status_of(ProviderRefusedError(refusal))) for refusal in ProviderRefusal)
    return str(TABLE[one][0])


def _retry(one: ErrorCode) -> str:
    """Return whether a retry can succeed. A refusal by the provider is a ``RetryableError``, and yet it cannot."""
    kinds = [kind for kind in _descendants(IbexError) if vars(kind).get("code") is one]
    kinds = [kind for kind in kinds if kind is not ProviderRefusedError]
    return "can help" if any(issubclass(kind, RetryableError) for kind in kinds) else ""


def _descendants(kind: type[IbexError]) -> Iterator[type[IbexError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _descendants(below)
