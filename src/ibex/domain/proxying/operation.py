"""Port: operations. An operation defines everything that is specific to one kind of request (ADR 0049)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ibex.domain.value_object import value_object

if TYPE_CHECKING:
    from ibex.domain.directives.model import Directive
    from ibex.domain.identity.permissions import Permission
    from ibex.domain.proxying.provider import Dialect, StreamEvent
    from ibex.domain.record.summary import ResponseSummary


class MalformedResponseError(ValueError):
    """The body of a successful response is not a response of the operation, or it contains an error."""


@value_object
class Target:
    """The target of a request: the id in its path, or None, and its query without the question mark."""

    id: str | None = None
    query: str = ""


NO_TARGET: Final = Target()


@value_object
class ResponseReference:
    """The id of an earlier response that a request names.

    If the request ``continues`` that response, the agent must have received it, and the turn belongs to its session.
    Otherwise the request reads or changes the response, and the organization must have received it.
    """

    id: str
    continues: bool


class ResponseReader(Protocol):
    """A reader of the response to one request, buffered or streamed, while it passes through. Keeps no text."""

    has_ended: bool
    """Whether the event that ends the stream has been read."""
    failed: bool
    """Whether the provider has reported an error in the response, which the client gets nevertheless."""

    @property
    def forwards_trailing_events(self) -> bool:
        """Whether to forward the events after the one that ends the stream."""

    @property
    def is_complete(self) -> bool:
        """Whether the stream may end here: the response is complete even without the event that ends it."""

    def read_body(self, body: bytes) -> bytes:
        """Read a buffered response and return the body for the client.

        Raises ``MalformedResponseError``.
        """

    def read_event(self, event: StreamEvent) -> bytes:
        """Read an event of a stream and return the bytes for the client, none to hide the event.

        Never raises: an event that cannot be understood is forwarded.
        """

    def error_event(self, envelope: bytes) -> bytes:
        """Return the events that report an error to the client, given the error envelope as JSON on one line."""

    def summary(self) -> ResponseSummary:
        """Return the summary of the response as far as it has been read."""


class OperationRequest(Protocol):
    """A valid request of an operation. Immutable; its repr shows no content."""

    @property
    def model(self) -> str | None:
        """The model that the client asks for; None if the request names an earlier response instead."""

    @property
    def reference(self) -> ResponseReference | None:
        """The earlier response that the request names; None if it names none."""

    @property
    def path(self) -> str:
        """The path below the provider's root, with the query, such as ``chat/completions``."""

    @property
    def is_streaming(self) -> bool:
        """Whether the client asks for a stream."""

    @property
    def body(self) -> bytes:
        """The body to send: the client's own bytes, except for the proxy's additions."""

    def content_hash(self) -> str:
        """Return the SHA-256, in hex, of the input as the client sent it."""

    def with_directive(self, directive: Directive, dialect: Dialect) -> OperationRequest:
        """Return the request with the directive injected, for a provider of this dialect."""

    def with_directive_hidden(self, directive: Directive | None) -> OperationRequest:
        """Return a request whose reader hides the directive that was injected when the response was created.

        If the directive is None, because its text is unknown, the reader hides all instructions. Only called for a
        request that does not continue the response.
        """

    def asking_for_usage(self) -> OperationRequest:
        """Return a request that asks the provider to report usage in the stream; itself if it needs no change."""

    def response_reader(self, dialect: Dialect) -> ResponseReader:
        """Return a reader for the response of a provider of this dialect.

        It hides the proxy's additions, and holds no reference to the request.
        """


class Operation(Protocol):
    """Port: one kind of request. An operation keeps no state and does no I/O."""

    @property
    def name(self) -> str:
        """The name in records, metrics and logs, such as ``chat.completions``."""

    @property
    def method(self) -> str:
        """The HTTP method, the same for proxy and provider."""

    @property
    def path(self) -> str:
        """The path below the API's root; ``{id}`` in it stands for the id of ``Target``."""

    @property
    def permission(self) -> Permission:
        """The permission that the caller needs."""

    @property
    def takes_directive(self) -> bool:
        """Whether the agent's directive is injected."""

    @property
    def makes_turn(self) -> bool:
        """Whether a request is a turn of a session, and leaves a checkpoint."""

    @property
    def session_header(self) -> bytes | None:
        """The lowercase name of the header in which clients of this operation send a session id, or None."""

    async def parse(self, body: bytes, target: Target) -> OperationRequest:
        """Parse a request. Its body is empty for GET and DELETE. Yields to the event loop while parsing a large body.

        Raises ``InvalidJsonError`` if the body is not one JSON object in UTF-8, and ``ValidationError`` with all wrong
        fields.
        """
