"""Port: operations. An operation says everything that is special about one kind of request (ADR 0049)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ibex.domain.directives.model import Directive
    from ibex.domain.identity.permissions import Permission
    from ibex.domain.proxying.provider import StreamEvent
    from ibex.domain.record.summary import ResponseSummary


class MalformedResponseError(ValueError):
    """The body of a success is not a response of the operation, or it holds an error."""


class ResponseReader(Protocol):
    """Reads the response to one request, buffered or streamed, while it passes through. Keeps no text."""

    has_ended: bool
    """Whether the event that ends the stream has been read."""
    failed: bool
    """Whether the provider has reported an error in the stream."""

    @property
    def is_complete(self) -> bool:
        """Whether the stream may end here: the response is complete even without the event that ends it."""

    def read_body(self, body: bytes) -> bytes:
        """Read a buffered response and return what the client gets.

        Raises ``MalformedResponseError``.
        """

    def read_event(self, event: StreamEvent) -> bytes:
        """Read an event of a stream and return what the client gets, empty to hide the event.

        Never raises: an event that cannot be understood is forwarded.
        """

    def summary(self) -> ResponseSummary:
        """Return what is known of the response so far."""


class OperationRequest(Protocol):
    """A valid request of an operation. Immutable; its repr shows no content."""

    @property
    def model(self) -> str:
        """The model that the client asks for."""

    @property
    def is_streaming(self) -> bool:
        """Whether the client asks for a stream."""

    @property
    def body(self) -> bytes:
        """The body to send: the client's own bytes, except for what was added."""

    def content_hash(self) -> str:
        """Return the SHA-256, in hex, of the input as the client sent it."""

    def with_directive(self, directive: Directive) -> OperationRequest:
        """Return the request with the directive injected."""

    def asking_for_usage(self) -> OperationRequest:
        """Return the request so that the provider reports usage on the stream; itself if nothing has to change."""

    def response_reader(self) -> ResponseReader:
        """Return the reader of the response. It hides what was added, and does not refer to the request."""


class Operation(Protocol):
    """Port: one kind of request. An operation keeps no state and does no I/O."""

    @property
    def name(self) -> str:
        """The name in records, metrics and logs, such as ``chat.completions``."""

    @property
    def path(self) -> str:
        """The path below the root of the API, at the proxy as at the provider, such as ``chat/completions``."""

    @property
    def permission(self) -> Permission:
        """The permission that the caller needs."""

    @property
    def takes_directive(self) -> bool:
        """Whether the agent's directive is injected."""

    @property
    def makes_turn(self) -> bool:
        """Whether a request is a turn of a session, and leaves a checkpoint."""

    async def parse(self, body: bytes) -> OperationRequest:
        """Return the request that a body is. Yields to the event loop while it parses a large body.

        Raises ``InvalidJsonError`` if the body is not one JSON object in UTF-8, and ``ValidationError`` with all wrong
        fields.
        """

    def error_event(self, envelope: bytes) -> bytes:
        """Return the event that reports an error in a stream, given the error envelope as JSON on one line."""
