"""A receiver of OpenTelemetry spans: OTLP over HTTP with protobuf, decoded by OpenTelemetry's own definitions."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Received:
    """A span as it arrived."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    service: str
    start: int
    end: int
    kind: str
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Receiver:
    """What has arrived so far."""

    url: str
    spans: list[Received] = field(default_factory=list)
    requests: int = 0

    def named(self, name: str) -> Received:
        """Return the one span of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    @classmethod
    def of(cls, text: str) -> "Receiver":
        """Return what another receiver answered to ``GET``."""
        return cls("", [Received(**span) for span in json.loads(text)])

    def tree(self, parent: str = "") -> list[Any]:
        """Return names and their children, in order of their start, from a parent's span id down."""
        children = sorted((s for s in self.spans if s.parent == parent), key=lambda s: (s.start, s.name))
        return [(s.name, self.tree(s.span_id)) if self.tree(s.span_id) else s.name for s in children]


@contextmanager
def receiving(host: str = "127.0.0.1", port: int = 0) -> Iterator[Receiver]:
    """Serve ``/v1/traces``, by default on a free port of the loopback interface. ``GET`` answers what has arrived."""
    receiver = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path != "/v1/traces" or self.headers["Content-Type"] != "application/x-protobuf":
                self.send_error(400, "only spans, as protobuf")
                return
            receiver.requests += 1
            receiver.spans += decode(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            answer = json.dumps([asdict(span) for span in receiver.spans]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    receiver.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def decode(body: bytes) -> list[Received]:
    """Return the spans of an export request."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Received(
            name=span.name,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            service=_attributes(resource.resource.attributes)["service.name"],
            start=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            kind=trace_pb2.Span.SpanKind.Name(span.kind),
            failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
            attributes=_attributes(span.attributes),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        assert isinstance(pair, KeyValue)
        found[pair.key] = getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
    return found
