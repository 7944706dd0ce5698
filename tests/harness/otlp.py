"""A receiver of OpenTelemetry traces on loopback: OTLP over HTTP, like that of a collector."""

from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 20


@dataclass(slots=True)
class OtlpReceiver:
    """The received requests (path, headers, body), and their spans with the resource."""

    address: str = ""
    status: int = 200
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[OtlpReceiver]:
        """Listen on a free port until the block ends."""
        receiver = cls()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.take(self.path, dict(self.headers.items()), body)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                """Stay silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        receiver.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join(WAIT_S)
            server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Record a request; the body of a refused one is not parsed."""
        headers = {name.lower(): value for name, value in headers.items()}
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        with self.news:
            self.paths.append(path)
            self.headers.append(headers)
            self.bodies.append(body)
            if self.status == 200:
                self._read(ExportTraceServiceRequest.FromString(body))
            self.news.notify_all()

    def _read(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            self.resources.append(said(of_resource.resource))
            for of_scope in of_resource.scope_spans:
                self.spans.extend(of_scope.spans)

    def wait_for_requests(self, count: int) -> None:
        """Return once this many requests have arrived."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.bodies) >= count, WAIT_S), f"{len(self.bodies)} came"

    def wait_for_spans(self, count: int) -> list[Span]:
        """Return all spans, once this many have arrived."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.spans) >= count, WAIT_S), f"{len(self.spans)} came"
            return list(self.spans)


def said(holder: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {pair.key: _value(pair.value) for pair in holder.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
