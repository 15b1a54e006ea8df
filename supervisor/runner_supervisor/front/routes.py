"""Every route, whom it is for, and what it needs here.

llama-server's are those of tools/server/server.cpp (`ctx_http.get`, `.post`, `.del`). What is not listed here is for
administrators alone: a route that a later llama-server adds is shut until somebody has looked at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from runner_supervisor.core.access import Scope

READING: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    `label` names it in metrics and logs, whose labels are bounded. `read` and `write`: whom it is for, asked with
    GET, HEAD or OPTIONS, and with any other method; None: for everybody. `queued`: the work of a POST takes a slot,
    and, if it `generates`, makes tokens. `json`: the engine parses the body of a POST as JSON. `listed`: whether
    there is such a route at all.
    """

    label: str
    read: Scope | None = Scope.INFERENCE
    write: Scope | None = Scope.INFERENCE
    queued: bool = False
    generates: bool = True
    json: bool = False
    listed: bool = True

    def needs(self, method: bytes) -> Scope | None:
        """Whom it is for, asked with this method; None: for everybody."""
        return self.read if method in READING else self.write


OTHER: Final = Route("other", read=Scope.ADMIN, write=Scope.ADMIN, listed=False)
ASSET: Final = Route("asset", read=None, write=Scope.ADMIN)

GENERATION: Final = (
    "/chat/completions", "/completion", "/completions", "/infill", "/responses", "/v1/chat/completions",
    "/v1/completions", "/v1/messages", "/v1/responses",
)  # fmt: skip
READING_ALONE: Final = (
    "/embedding", "/embeddings", "/rerank", "/reranking", "/v1/embeddings", "/v1/rerank", "/v1/reranking",
)  # fmt: skip
"""What takes a slot, and generates nothing."""

UPLOADS: Final = ("/audio/transcriptions", "/v1/audio/transcriptions")
ASIDE: Final = (
    "/apply-template", "/chat/completions/input_tokens", "/detokenize", "/responses/input_tokens", "/tokenize",
    "/v1/chat/completions/control", "/v1/chat/completions/input_tokens", "/v1/messages/count_tokens",
    "/v1/responses/input_tokens", "/v1/streams/lookup",
)  # fmt: skip
STREAMS: Final = ("/v1/stream",)
READ_BY_ALL: Final = ("/lora-adapters", "/models", "/props", "/v1/models")
"""What they tell, inference keys may know; what is written to them changes the engine for everybody."""

ADMIN: Final = ("/cors-proxy", "/models/load", "/models/sse", "/models/unload", "/tools")
PAGES: Final = ("/index.html",)

ROUTES: Final[Mapping[str, Route]] = {
    **{path: Route(path, queued=True, json=True) for path in GENERATION},
    **{path: Route(path, queued=True, json=True, generates=False) for path in READING_ALONE},
    **{path: Route(path, queued=True) for path in UPLOADS},
    **{path: Route(path, json=True) for path in ASIDE},
    **{path: Route(path) for path in STREAMS},
    **{path: Route(path, write=Scope.ADMIN) for path in READ_BY_ALL},
    **{path: Route(path, read=Scope.ADMIN, write=Scope.ADMIN) for path in ADMIN},
    **{path: Route(path, read=None, write=Scope.ADMIN) for path in PAGES},
    "/slots": Route("/slots", read=Scope.METRICS, write=Scope.ADMIN),
    "/v1/health": Route("/v1/health", read=None, write=Scope.ADMIN),
}
"""The engine's. `/slots` stands for `/slots/ID` too."""

CONTROL: Final[Mapping[str, Route]] = {
    "/": Route("/", read=None, write=Scope.ADMIN),
    "/dashboard": Route("/dashboard", read=None, write=Scope.ADMIN),
    "/playground": Route("/playground", read=None, write=Scope.ADMIN),
    "/health": Route("/health", read=None, write=None),
    "/metrics": Route("/metrics", read=Scope.METRICS, write=Scope.METRICS),
    "/admin": Route("/admin", read=Scope.ADMIN, write=Scope.ADMIN),
    "/admin/events": Route("/admin/events", read=Scope.METRICS, write=Scope.ADMIN),
}
"""FastAPI's, with what lies below each. The pages hold nothing secret: what they show has to be asked for."""

ASSETS: Final = (
    ".css", ".gif", ".html", ".ico", ".jpg", ".js", ".map", ".mjs", ".png", ".svg", ".ttf", ".wasm", ".webmanifest",
    ".webp", ".woff", ".woff2",
)  # fmt: skip
"""How the names of a page's parts end: its own (LLAMA_BUILD_UI), or those in the folder of `--path`."""


def route_of(path: str) -> Route:
    """The engine's route of a decoded path without its query; `OTHER` for what is not listed."""
    route = ROUTES.get(path)
    if route is not None:
        return route
    if path.startswith("/slots/"):
        return ROUTES["/slots"]
    return ASSET if path.endswith(ASSETS) else OTHER
