"""Spans by OpenTelemetry's SDK, and their way to a collector: OTLP over HTTP, from a thread of the SDK's own.

That thread has a bounded queue, so a collector that is slow or gone costs spans and never a request. The SDK's usual
environment holds (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_*), except that
`traces_url` and `traces_sample` say where to and how many.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from time import time_ns

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_EXPORT_BATCH_SIZE
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as SdkTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runner_supervisor import __version__
from runner_supervisor.front.audit import Entry
from runner_supervisor.front.traces import Attribute, Headers, attributes, name_of, phases
from runner_supervisor.settings import APP

logger = logging.getLogger(__name__)

END_S = 2.0
"""How long the end waits for the last spans to be handed over, in seconds."""

BATCH_SPANS = 64
"""How many are sent at a time. Encoding one takes 26 µs, in which the event loop cannot run: 512, as the SDK has it,
would be a stop of 14 ms.
"""

STATE_BYTES = 512
"""The longest `tracestate` that is passed on: as much as must be (W3C Trace Context, 3.3.1.5), and far less than the
longest line that the engine reads.
"""

PROPAGATOR = TraceContextTextMapPropagator()


class OpenTelemetry:
    """A `Tracer`."""

    def __init__(self, endpoint: str, *, sample: float, scheme: str) -> None:
        """Begin.

        Args:
            endpoint: the collector's URL, path included.
            sample: the share of requests that get a trace, of those that do not come with one.
            scheme: of our own URL, http or https.

        Raises:
            ValueError: the SDK's environment is wrong.
        """
        self._scheme = scheme
        self._exporter = Exporter(endpoint)
        named = OTELResourceDetector().detect().attributes
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(sample),
            resource=Resource.create({"service.name": APP, "service.version": __version__, **named}),
            shutdown_on_exit=False,
        )
        batch = int(os.environ.get(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, BATCH_SPANS))
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, max_export_batch_size=batch))
        self._tracer = self._provider.get_tracer(APP, __version__)
        self._exporter.listen()

    def begin(self, context: Headers) -> RequestSpan:
        """The span of a request whose head has just come; see `traces.Tracer`."""
        parent = _parent(context) if context else Context()
        return RequestSpan(self._tracer, parent, scheme=self._scheme)

    def close(self, within_s: float = END_S) -> None:
        """Hand over the spans that wait, within so many seconds, and end."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(within_s)
        if ending.is_alive():
            logger.warning("the last traces could not be handed over within %g s", within_s)
        self._exporter.shutdown()


class RequestSpan:
    """A `Trace`: the span of one request, and of its phases when it has ended."""

    __slots__ = ("_began_ns", "_scheme", "_span", "_tracer", "lines")

    def __init__(self, tracer: SdkTracer, parent: Context, *, scheme: str) -> None:
        self._tracer = tracer
        self._scheme = scheme
        self._began_ns = time_ns()
        self._span: Span = tracer.start_span("HTTP", parent, SpanKind.SERVER, start_time=self._began_ns)
        named: dict[str, str] = {}
        PROPAGATOR.inject(named, set_span_in_context(self._span, Context()))
        self.lines = "".join(f"{name}: {value}\r\n" for name, value in named.items()).encode("latin-1")

    def end(self, entry: Entry, *, streamed: bool, estimated: bool) -> None:
        """The request has ended; see `traces.Trace`."""
        span = self._span
        if not span.is_recording():  # not sampled: its name went to the engine, and that is all
            return
        within = set_span_in_context(span, Context())
        for name, began_ms, ended_ms in phases(entry, streamed=streamed):
            self._tracer.start_span(name, within, start_time=self._after(began_ms)).end(self._after(ended_ms))
        said: dict[str, Attribute] = attributes(entry, scheme=self._scheme, estimated=estimated)
        span.update_name(name_of(entry))
        span.set_attributes(said)
        if "error.type" in said:
            span.set_status(Status(StatusCode.ERROR))
        span.end(self._after(entry.ms))

    def _after(self, ms: float) -> int:
        """So many milliseconds after its beginning, in nanoseconds since the epoch."""
        return self._began_ns + int(ms * 1e6)


def _parent(context: Headers) -> Context:
    """What a request's headers say of the span that it belongs to; empty where that is not valid."""
    carrier: dict[str, str] = {}
    for name, value in context:
        key, text = name.decode(), value.decode("latin-1")
        carrier[key] = f"{carrier[key]},{text}" if key in carrier else text
    if len(carrier.get("tracestate", "")) > STATE_BYTES:
        del carrier["tracestate"]
    return PROPAGATOR.extract(carrier, Context())


class Exporter(SpanExporter):
    """Sends spans to a collector, and says once that it does not take them, and when it does again.

    The SDK's own lines, one for each try, are kept from the log: the first of them is the reason that is given.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._reason = FirstLine()
        self._failing = self._ended = False
        self._sdk = logging.getLogger("opentelemetry")
        self._inner = OTLPSpanExporter(endpoint)

    def listen(self) -> None:
        """From now on, keep the SDK's lines from the log."""
        self._sdk.addHandler(self._reason)
        self._sdk.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send these; called in the SDK's thread."""
        if self._ended:
            return SpanExportResult.FAILURE
        self._reason.text = ""
        result = self._inner.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            logger.warning(
                "traces do not get to %s, and are lost until they do: %s", self._endpoint, self._reason.text
            )
        elif self._failing and not failing:
            logger.warning("traces get to %s again", self._endpoint)
        self._failing = failing
        return result

    def shutdown(self) -> None:
        """Send nothing more, and give up what is being tried again."""
        if not self._ended:
            self._ended = True
            self._inner.shutdown()  # type: ignore[no-untyped-call]
            self._sdk.removeHandler(self._reason)
            self._sdk.propagate = True


class FirstLine(logging.Handler):
    """Keeps the first line of the SDK's exporter, and drops all others: that its queue is full follows from it."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep this one, if it is that."""
        if not self.text and record.name.startswith("opentelemetry.exporter"):
            self.text = record.getMessage()
