"""Every route of llama-server answers the same through the front as directly: status, headers, bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import Supervisor

CHAT = {"messages": [{"role": "user", "content": "The sea"}], "max_tokens": 4, "temperature": 0}
TEXT = {"prompt": "The sea", "max_tokens": 4, "temperature": 0}
MESSAGE = CHAT | {"model": "demo"}
RESPONSE = {"input": "The sea", "max_output_tokens": 4, "temperature": 0, "model": "demo"}

ROUTES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/v1/health", None),
    ("GET", "/props", None),
    ("POST", "/props", {}),
    ("GET", "/models", None),
    ("GET", "/v1/models", None),
    ("POST", "/completion", TEXT),
    ("POST", "/completion", TEXT | {"stream": True}),
    ("POST", "/completions", TEXT),
    ("POST", "/v1/completions", TEXT),
    ("POST", "/v1/completions", TEXT | {"stream": True}),
    ("POST", "/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
    ("POST", "/v1/chat/completions/control", {}),
    ("POST", "/v1/responses", RESPONSE),
    ("POST", "/v1/responses", RESPONSE | {"stream": True}),
    ("POST", "/responses", RESPONSE),
    ("POST", "/v1/audio/transcriptions", {}),
    ("POST", "/v1/messages", MESSAGE),
    ("POST", "/v1/messages", MESSAGE | {"stream": True}),
    ("POST", "/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 4, "temperature": 0}),
    ("POST", "/embedding", {"content": "the sea"}),
    ("POST", "/embeddings", {"content": "the sea"}),
    ("POST", "/v1/embeddings", {"input": "the sea"}),
    ("POST", "/rerank", {"query": "a", "documents": ["b"]}),
    ("POST", "/v1/rerank", {"query": "a", "documents": ["b"]}),
    ("POST", "/tokenize", {"content": "the sea"}),
    ("POST", "/detokenize", {"tokens": [400, 401]}),
    ("POST", "/apply-template", {"messages": CHAT["messages"]}),
    ("POST", "/v1/chat/completions/input_tokens", CHAT),
    ("POST", "/v1/responses/input_tokens", RESPONSE),
    ("POST", "/v1/messages/count_tokens", MESSAGE),
    ("GET", "/lora-adapters", None),
    ("POST", "/lora-adapters", {}),
    ("GET", "/slots", None),
    ("POST", "/slots/0?action=erase", {}),
    ("GET", "/v1/stream", None),
    ("DELETE", "/v1/stream", None),
    ("POST", "/v1/streams/lookup", {"conversation_ids": ["x"]}),
    ("GET", "/cors-proxy", None),
    ("GET", "/tools", None),
    ("GET", "/index.html", None),
    ("GET", "/no/such/path?with=query", None),
    ("HEAD", "/v1/models", None),
    ("OPTIONS", "/v1/chat/completions", None),
    ("POST", "/v1/completions", {"prompt": 7, "max_tokens": -5, "temperature": "hot"}),
]
"""llama-server's route table (tools/server/server.cpp:240-330), streams and faults included."""

VOLATILE = re.compile(
    rb'"(?:id|created|created_at|completed_at|item_id|id_slot|id_task|encrypted_content|'
    rb"[a-z_]*_ms|[a-z_]*per_second|n_decoded|t_[a-z_]*|cache_n|prompt_n|cached_tokens|tokens_cached|"
    rb'tokens_evaluated|cache_read_input_tokens|input_tokens|n_past|n_prompt_tokens[a-z_]*|is_processing)":'
    rb'\s*(?:"[^"]*"|[-0-9.eE+]+|true|false)'
)
"""Names, times and cache figures, which differ from one request to the next on one engine too."""

OF_ONE_CONNECTION = {"keep-alive", "connection"}
"""Each request has a connection of its own: llama-server now and then closes one after a stream."""

OURS = {"x-request-id"}
"""What the front adds."""

KEPT_BACK = "access-control-"
"""llama-server lets every page in, with credentials; the front has rules of its own (front/origins.py)."""


def kept(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    """The headers that are to be the same."""
    return [
        (name, value)
        for name, value in response.headers.raw
        if not (lower := name.lower().decode()).startswith(KEPT_BACK) and lower not in OF_ONE_CONNECTION | OURS
    ]


def answer(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, list[Any], bytes]:
    content = None if body is None else json.dumps(body).encode()
    asked = {
        "connection": "close",
        "accept-encoding": "identity",
        "origin": "http://localhost:3000",
        "accept": "*/*",
    }
    with client.stream(method, path, content=content, headers=asked) as response:
        raw = b"".join(response.iter_raw())
    headers = kept(response)
    masked = VOLATILE.sub(b"", raw)
    if masked != raw:
        headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return response.status_code, headers, masked


@pytest.fixture(scope="module")
def guarded(engine_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Supervisor, str]]:
    """A supervisor, and a key that may ask everything."""
    assert engine_build.exists()
    with Supervisor(tmp_path_factory.mktemp("rs") / "s") as supervisor:
        supervisor.wait_ready()
        yield supervisor, supervisor.create_key("all", "--scope", "admin")


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_a_route_answers_the_same_directly_and_through_the_front(
    guarded: tuple[Supervisor, str], method: str, path: str, body: dict[str, Any] | None
) -> None:
    service, key = guarded
    may = {"authorization": f"Bearer {key}"}
    with service.engine() as engine, httpx.Client(base_url=service.url, headers=may, timeout=30) as front:
        answer(engine, method, path, body)  # so that both find the same prompt cache
        direct = answer(engine, method, path, body)
        fronted = answer(front, method, path, body)
    assert fronted == direct


@pytest.fixture(scope="module")
def with_pages(engine_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """llama-server with a folder of static pages (its own page is not built in)."""
    assert engine_build.exists()
    folder = tmp_path_factory.mktemp("pages")
    (folder / "index.html").write_text("<!doctype html><script type=module src=app.js></script>")
    (folder / "app.js").write_text("export const answer = 42;\n" * 4000)
    (folder / "icon.png").write_bytes(bytes(range(256)))
    with Supervisor(tmp_path_factory.mktemp("rs") / "s", "--", "--path", str(folder)) as supervisor:
        yield supervisor.wait_ready()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/index.html", "/app.js", "/icon.png", "/gone.css"])
def test_a_page_and_its_assets_are_the_same(with_pages: Supervisor, path: str, method: str, encoding: str) -> None:
    with with_pages.engine() as engine, httpx.Client(base_url=with_pages.url, timeout=30) as front:
        headers = {"connection": "close", "accept-encoding": encoding, "range": "bytes=0-99"}
        for wanted in (
            headers,
            headers | {"range": "bytes=5-"},
            {"connection": "close", "accept-encoding": encoding},
        ):
            seen = []
            for client in (engine, front):
                with client.stream(method, path, headers=wanted) as response:
                    raw = b"".join(response.iter_raw())
                seen.append((response.status_code, kept(response), raw))
            assert seen[0] == seen[1]


def test_the_front_door_leads_to_a_page_of_the_engines(with_pages: Supervisor) -> None:
    answer = httpx.get(f"{with_pages.url}/", follow_redirects=True)
    assert answer.url.path == "/index.html"
    assert "app.js" in answer.text
