"""Traces: one span for each request to the engine, with a child for each phase. Off, unless `traces_url` is set.

Here is what spans say, and when phases begin and end; `front.otel` makes spans of that and hands them to a collector.
Phases are spans of their own, not events: they last, and what shows or adds up traces does that with spans alone.

Names of attributes are those of OpenTelemetry's semantic conventions (registry/attributes/http, error, client and
gen-ai), and `runner.*` where there is none. Nothing that a client wrote is in them but its request's id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from runner_supervisor.errors import ConfigError
from runner_supervisor.front.audit import BROKEN, Entry
from runner_supervisor.front.metrics.requests import cause
from runner_supervisor.settings import Settings

CONTEXT: Final = frozenset({b"traceparent", b"tracestate"})
"""The headers that say which span a request belongs to (W3C Trace Context)."""

TRACES_PATH: Final = "/v1/traces"
PROVIDER: Final = "llama.cpp"

OPERATIONS: Final = {
    "/audio/transcriptions": "transcription",
    "/chat/completions": "chat",
    "/completion": "text_completion",
    "/completions": "text_completion",
    "/embedding": "embeddings",
    "/embeddings": "embeddings",
    "/infill": "text_completion",
    "/messages": "chat",
    "/rerank": "rerank",
    "/reranking": "rerank",
    "/responses": "chat",
}
"""`gen_ai.operation.name` of the routes whose POST takes a slot, with or without /v1 before them."""

METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Those that HTTP's conventions know; others are `_OTHER`."""

Attribute = str | int | bool
Headers = Sequence[tuple[bytes, bytes]]


class Phase(NamedTuple):
    """A part of a request's time, in milliseconds from its head."""

    name: str
    began_ms: float
    ended_ms: float


class Trace(Protocol):
    """One request's span, which has begun. `lines`: the header lines that name it, each with its end."""

    lines: bytes

    def end(self, entry: Entry, *, streamed: bool, estimated: bool) -> None:
        """The request has ended.

        Args:
            entry: what became of it.
            streamed: whether its answer is a stream of events.
            estimated: whether its tokens are not all the engine's own figures.
        """


class Tracer(Protocol):
    """Begins spans."""

    def begin(self, context: Headers) -> Trace:
        """The span of a request whose head has just come. `context`: its headers that are among `CONTEXT`."""


def operation_of(entry: Entry) -> str | None:
    """What the engine was asked to do; None: nothing that takes a slot."""
    return OPERATIONS.get(entry.path.removeprefix("/v1")) if entry.method == "POST" else None


def phases(entry: Entry, *, streamed: bool) -> tuple[Phase, ...]:
    """A request's phases: `queue`, until it is on its way to the engine; `engine`, until the answer's end, or a
    stream's first event; `stream`, from there on. One that never got to the engine has none: all of it is waiting.
    """
    sent_ms, first_ms = entry.queue_ms, entry.ttft_ms
    if not sent_ms or operation_of(entry) is None:
        return ()
    queue = Phase("queue", 0.0, sent_ms)
    if first_ms is None or not streamed:
        return queue, Phase("engine", sent_ms, entry.ms)
    return queue, Phase("engine", sent_ms, first_ms), Phase("stream", first_ms, entry.ms)


def name_of(entry: Entry) -> str:
    """A span's name: method and route."""
    method = entry.method if entry.method in METHODS else "HTTP"
    return f"{method} {entry.path}" if entry.path.startswith("/") else method


def fault_of(entry: Entry) -> str | None:
    """What went wrong on our side; None: nothing did. A request that is refused for what it is, is no fault."""
    status = entry.status or 0
    if entry.outcome != BROKEN and status < 500:
        return None
    return cause(status, entry.outcome) or entry.outcome


def attributes(entry: Entry, *, scheme: str, estimated: bool) -> dict[str, Attribute]:
    """What a request's span says.

    Args:
        entry: what became of it. Its path is a route's; what strangers make up is not repeated.
        scheme: http or https.
        estimated: whether its tokens are not all the engine's own figures.
    """
    path = entry.path if entry.path.startswith("/") else None
    operation = operation_of(entry)
    spent = bool(operation and (entry.prompt_tokens or entry.generated_tokens))
    model = entry.model if operation else None
    said: dict[str, Attribute | None] = {
        "http.request.method": entry.method if entry.method in METHODS else "_OTHER",
        "http.route": path,
        "url.path": path,
        "url.scheme": scheme,
        "client.address": entry.address,
        "http.response.status_code": entry.status,
        "error.type": fault_of(entry),
        "runner.request_id": entry.request_id.decode(),
        "runner.key.id": entry.key,
        "runner.outcome": entry.outcome,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER if operation else None,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model if spent else None,
        "gen_ai.usage.input_tokens": entry.prompt_tokens if spent else None,
        "gen_ai.usage.cache_read.input_tokens": entry.cached_tokens if spent else None,
        "gen_ai.usage.output_tokens": entry.generated_tokens if spent else None,
        "runner.usage.estimated": estimated if spent else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def endpoint_of(url: str) -> str:
    """Where traces go: this URL or, if it has no path, the one that collectors take them at."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else parts._replace(path=TRACES_PATH).geturl()


@contextlib.contextmanager
def tracing(settings: Settings) -> Iterator[Tracer | None]:
    """What begins spans, for one run; at its end, those that wait are handed over. None: traces are off.

    Raises:
        ConfigError: OpenTelemetry is not installed, or its environment is wrong.
    """
    if settings.traces_url is None:
        yield None
        return
    try:
        from runner_supervisor.front.otel import OpenTelemetry  # noqa: PLC0415 (needs an extra)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise ConfigError(
            "traces_url needs OpenTelemetry: pip install 'runner-supervisor[otel]', or unset traces_url"
        ) from None
    scheme = "https" if settings.tls_cert else "http"
    try:
        tracer = OpenTelemetry(endpoint_of(settings.traces_url), sample=settings.traces_sample, scheme=scheme)
    except ValueError as error:
        raise ConfigError(
            f"OpenTelemetry cannot begin: {error}; look at the environment's OTEL_* variables"
        ) from None
    try:
        yield tracer
    finally:
        tracer.close()
