"""llama-server's API routes (tools/server/server.cpp, `ctx_http.get` and `.post`) and what each needs here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    `label` names it in metrics, whose labels are bounded. `queued`: its work takes a slot. `json`: the engine
    parses the body of a POST as JSON.
    """

    label: str
    queued: bool = False
    json: bool = False


OTHER = Route("other")

GENERATION = (
    "/chat/completions", "/completion", "/completions", "/embedding", "/embeddings", "/infill", "/rerank",
    "/reranking", "/responses", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages",
    "/v1/rerank", "/v1/reranking", "/v1/responses",
)  # fmt: skip
UPLOADS = ("/audio/transcriptions", "/v1/audio/transcriptions")
ASIDE = (
    "/apply-template", "/chat/completions/input_tokens", "/detokenize", "/responses/input_tokens", "/tokenize",
    "/v1/chat/completions/input_tokens", "/v1/messages/count_tokens", "/v1/responses/input_tokens",
    "/v1/streams/lookup",
)  # fmt: skip
STATE = (
    "/lora-adapters", "/models", "/props", "/slots", "/v1/health", "/v1/models", "/v1/stream",
)  # fmt: skip

ROUTES: dict[str, Route] = {
    **{path: Route(path, queued=True, json=True) for path in GENERATION},
    **{path: Route(path, queued=True) for path in UPLOADS},
    **{path: Route(path, json=True) for path in ASIDE},
    **{path: Route(path) for path in STATE},
}


def route_of(path: str) -> Route:
    """The route of a decoded path without its query; `OTHER` for what llama-server does not list."""
    return ROUTES.get(path, OTHER)
