"""The context of one request: its ids, its header fields and, once admission has begun, its exchange."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from ibex.domain.ids import parse_uuid
from ibex.domain.proxying.admission import Credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ibex.adapters.http_server.asgi import Scope
    from ibex.domain.ids import IdSource
    from ibex.domain.record.in_flight import InFlightExchange

_STATE_KEY: Final = "ibex.request"
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-((?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?")
_RESERVED_UUIDS: Final = frozenset({UUID(int=0), UUID(int=2**128 - 1)})
"""The nil and the max UUID (RFC 9562), which are not valid request ids."""
_OPTIONAL_SPACE: Final = b" \t"


@dataclass(slots=True)
class RequestContext:
    """The context of one request. ``in_flight`` is None until admission begins.

    ``started_ns`` is a time of the monotonic clock. ``parent`` is the client's span and flags from ``traceparent``, as
    ``<span id>-<flags>``; None without one. Header fields have lower-case names. Repeated ones are joined with commas
    (RFC 9110, 5.3), so that a request with two tokens, agents or content types has a single invalid one.
    """

    request_id: UUID
    trace_id: str
    started_ns: int
    fields: dict[bytes, bytes]
    parent: str | None = None
    in_flight: InFlightExchange | None = None

    def __repr__(self) -> str:
        return f"<RequestContext {self.request_id}>"

    @classmethod
    def begin(cls, scope: Scope, ids: IdSource, started_ns: int) -> RequestContext:
        """Create the context of a new request and store it in the scope."""
        fields: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            fields[name] = fields[name] + b", " + value if name in fields else value
        context = cls.of(fields, ids, started_ns)
        scope.setdefault("state", {})[_STATE_KEY] = context
        return context

    @classmethod
    def of(cls, fields: dict[bytes, bytes], ids: IdSource, started_ns: int) -> RequestContext:
        """Return the context of a new request with these header fields."""
        request_id, trace_id, parent = None, None, None
        if b"traceparent" in fields:
            trace_id, parent = _trace_context(fields[b"traceparent"])
        if b"x-request-id" in fields:
            request_id = _request_id(fields[b"x-request-id"])
        return cls(request_id or ids.uuid7(), trace_id or ids.uuid7().hex, started_ns, fields, parent)

    def field(self, name: bytes) -> str | None:
        """Return the value of a header, None if it is absent.

        Only spaces and tabs are stripped (RFC 9110, 5.5). Other white space belongs to the value.
        """
        value = self.fields.get(name)
        return None if value is None else value.strip(_OPTIONAL_SPACE).decode("latin-1")

    def credentials(self, org_id: str | None) -> Credentials:
        """Return the credentials that the client presents, not verified, and the organization that the path names."""
        return Credentials(bearer_token(self.field(b"authorization")), self.field(b"x-ibex-agent-id"), org_id)


def bearer_token(authorization: str | None) -> str | None:
    """Return the token in an Authorization header (RFC 6750, 2.1), or None if it has no bearer token.

    White space other than spaces belongs to the token, and makes it invalid.
    """
    scheme, _, credential = (authorization or "").strip(" \t").partition(" ")
    return credential.strip(" ") or None if scheme.lower() == "bearer" else None


NO_REQUEST: Final = RequestContext(UUID(int=0), "", 0, {})
"""The context for responses that are rendered before any request."""


def context_of(scope: Mapping[str, Any]) -> RequestContext:
    """Return the context that ``RequestContext.begin`` stored in the scope."""
    context = scope["state"][_STATE_KEY]
    if not isinstance(context, RequestContext):
        raise TypeError("the scope holds no request context")
    return context


def _request_id(value: bytes) -> UUID | None:
    found = parse_uuid(value.decode("latin-1"))
    return None if found in _RESERVED_UUIDS else found


def _trace_context(traceparent: bytes) -> tuple[str | None, str | None]:
    """Return trace id and parent of a W3C ``traceparent`` header. Unknown versions may have more fields."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == b"00" and match[4] is not None):
        return None, None
    return match[2].decode("ascii"), match[3].decode("ascii")
