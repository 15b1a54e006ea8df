"""An OpenTelemetry collector (OTLP over HTTP) in this process, which keeps what it gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

DEADLINE_S = 30.0
SERVER, INTERNAL = 2, 1
"""Kinds of spans (opentelemetry/proto/trace/v1/trace.proto)."""

UNSET, ERROR = 0, 2
"""Their statuses."""


@dataclass(frozen=True)
class Got:
    """One span. Ids are in hexadecimal digits; `parent` is empty for a root. Times are ns since the epoch."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    began_ns: int
    ended_ns: int
    status: int
    said: dict[str, object]
    resource: dict[str, object]


@dataclass
class Collector:
    """What came so far. `status`: what it answers with. `answers`: cleared, it keeps everybody waiting."""

    url: str
    status: int = 200
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    spans: list[Got] = field(default_factory=list)
    answers: threading.Event = field(default_factory=threading.Event)

    def take(self, path: str, body: bytes) -> int:
        """One request; returns the answer's status."""
        self.paths.append(path)
        assert self.answers.wait(DEADLINE_S)
        if self.status == 200:
            self.bodies.append(body)
            self.spans += spans_of(body)
        return self.status

    def requests(self) -> list[Got]:
        """The spans of whole requests."""
        return [span for span in self.spans if span.kind == SERVER]

    def children(self, span: Got) -> list[Got]:
        """Those of its phases, in order."""
        return sorted((each for each in self.spans if each.parent == span.id), key=lambda each: each.began_ns)


def spans_of(body: bytes) -> Iterator[Got]:
    """All spans of one message."""
    message = ExportTraceServiceRequest.FromString(body)
    for group in message.resource_spans:
        resource = plain(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Got(
                    name=span.name,
                    kind=span.kind,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                    status=span.status.code,
                    said=plain(span.attributes),
                    resource=resource,
                )


def plain(attributes: object) -> dict[str, object]:
    """Attributes as a dictionary."""
    found: dict[str, object] = {}
    for each in attributes:  # type: ignore[attr-defined]
        assert isinstance(each, KeyValue)
        kind = each.value.WhichOneof("value")
        assert kind
        found[each.key] = getattr(each.value, kind)
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(collector.take(self.path, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        collector.answers.set()
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield collector
        finally:
            collector.answers.set()
            server.shutdown()
            serving.join()
