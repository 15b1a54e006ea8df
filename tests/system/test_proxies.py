"""The configurations of nginx and Caddy in docs/operations.md: streams pass through them in pieces."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import END_TIMEOUT_S, eventually
from tests.system.docker_rig import REPOSITORY, free_port

HOST = "llm.example.org"
HELD_S = 20.0
DOCUMENT = (REPOSITORY / "docs" / "operations.md").read_text()
NGINX = """
daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{ listen 127.0.0.1:{port}; {block} }}
}}
"""


class Upstream(http.server.ThreadingHTTPServer):
    """Streams one event, and the other when the first has come through."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.first_came = threading.Event()
        self.heads: list[dict[str, str]] = []

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request to it."""

    server: Upstream

    def do_GET(self) -> None:
        """Stream two events."""
        self.server.heads.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: 1\n\n")
        self.wfile.flush()
        self.server.first_came.wait(HELD_S)
        self.wfile.write(b"data: 2\n\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def block(beginning: str) -> str:
    """The indented block of the document that begins so."""
    found = re.search(rf"^    {re.escape(beginning)}.*?^    \}}", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, beginning
    return found[0]


def nginx(folder: Path, upstream: str, port: int) -> list[str]:
    """The command that runs nginx with the document's block."""
    told = block("location / {").replace("127.0.0.1:8080", upstream)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, block=told))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    """The command that runs Caddy with the document's block; plain HTTP, as nobody certifies that host here."""
    told = block(f"{HOST} {{").replace("127.0.0.1:8080", upstream)
    (folder / "Caddyfile").write_text(f"{{\n admin off\n}}\n{told.replace(HOST, f'http://{HOST}:{port}')}\n")
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """What is behind the proxy."""
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(END_TIMEOUT_S)


def listens(port: int) -> bool:
    """Whether the proxy does."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_streams_come_in_pieces(
    proxy: Callable[[Path, str, int], list[str]], upstream: Upstream, tmp_path: Path
) -> None:
    if not shutil.which(proxy.__name__):
        pytest.skip(f"not installed: {proxy.__name__}")
    port = free_port()
    command, environment = proxy(tmp_path, upstream.address, port), os.environ | {"HOME": str(tmp_path)}
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log, env=environment) as process:
        try:
            eventually(lambda: listens(port), bool, timeout_s=HELD_S)
            url, headers = f"http://127.0.0.1:{port}/stream", {"host": f"{HOST}:{port}"}
            with httpx.stream("GET", url, headers=headers, timeout=HELD_S / 2) as answer:
                pieces = answer.iter_raw()
                assert next(pieces) == b"data: 1\n\n"
                upstream.first_came.set()
                assert next(pieces) == b"data: 2\n\n"
        finally:
            process.terminate()
            process.wait(END_TIMEOUT_S)
    assert upstream.heads[-1]["host"].startswith(HOST)
    assert upstream.heads[-1]["x-forwarded-for"] == "127.0.0.1"
