"""The front's own metrics: names, units, labels. Labels are bounded: unknown paths count as `other`."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.states import State

ROUTES = frozenset(
    {
        "/apply-template", "/audio/transcriptions", "/chat/completions", "/chat/completions/input_tokens",
        "/completion", "/completions", "/detokenize", "/embedding", "/embeddings", "/infill", "/lora-adapters",
        "/models", "/props", "/rerank", "/reranking", "/responses", "/responses/input_tokens", "/slots",
        "/tokenize", "/v1/audio/transcriptions", "/v1/chat/completions", "/v1/chat/completions/input_tokens",
        "/v1/completions", "/v1/embeddings", "/v1/health", "/v1/messages", "/v1/messages/count_tokens",
        "/v1/models", "/v1/rerank", "/v1/reranking", "/v1/responses", "/v1/responses/input_tokens",
    }
)  # fmt: skip
"""llama-server's API routes (tools/server/server.cpp, `ctx_http.get` and `.post`)."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts requests and the engine's life in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, read by nobody
        self.registry = CollectorRegistry()
        self._requests = Counter("runner_requests", "Requests answered.", ["path", "status"], registry=self.registry)
        self._abandoned = Counter(
            "runner_requests_abandoned",
            "Requests whose client left before the answer was complete.",
            ["path"],
            registry=self.registry,
        )
        self._broken = Counter(
            "runner_requests_broken",
            "Answers that the engine began and did not end.",
            ["path"],
            registry=self.registry,
        )
        self._first_byte = Histogram(
            "runner_time_to_first_byte_seconds",
            "Time from the end of a request's head to the first byte of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "runner_requests_in_flight", "Requests being relayed to the engine.", registry=self.registry
        )
        self.queued = Gauge("runner_queue_depth", "Requests waiting for a slot.", registry=self.registry)
        self.queue_wait = Histogram(
            "runner_queue_wait_seconds",
            "Time that requests which had to wait for a slot waited.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._engine_up = Gauge("runner_engine_up", "1 while the engine is READY, else 0.", registry=self.registry)
        self._engine_state = Gauge(
            "runner_engine_state",
            "1 for the state that the engine is in, 0 for the others.",
            ["state"],
            registry=self.registry,
        )
        self._engine_restarts = Counter(
            "runner_engine_restarts", "Restarts of the engine after it died.", registry=self.registry
        )
        self._restarts_counted = 0
        self._request_children: dict[tuple[str, int], Counter] = {}
        self._first_byte_children: dict[str, Histogram] = {}

    def answered(self, path: str, status: int) -> None:
        """Count one complete answer. `path` is without its query."""
        key = (path if path in ROUTES else "other", status)
        child = self._request_children.get(key)
        if child is None:
            child = self._request_children[key] = self._requests.labels(path=key[0], status=str(status))
        child.inc()

    def abandoned(self, path: str) -> None:
        """Count one request whose client left."""
        self._abandoned.labels(path=path if path in ROUTES else "other").inc()

    def broken(self, path: str) -> None:
        """Count one answer that the engine began and did not end."""
        self._broken.labels(path=path if path in ROUTES else "other").inc()

    def first_byte(self, path: str, elapsed_s: float) -> None:
        """Count how long a request's first byte took, in seconds."""
        key = path if path in ROUTES else "other"
        child = self._first_byte_children.get(key)
        if child is None:
            child = self._first_byte_children[key] = self._first_byte.labels(path=key)
        child.observe(elapsed_s)

    def engine(self, machine: Machine) -> None:
        """Take over what the engine's state machine knows."""
        self._engine_up.set(machine.state is State.READY)
        for state in State:
            self._engine_state.labels(state=state.value).set(state is machine.state)
        self._engine_restarts.inc(machine.restarts - self._restarts_counted)
        self._restarts_counted = machine.restarts

    def render(self) -> bytes:
        """All of it as Prometheus text."""
        return generate_latest(self.registry)
