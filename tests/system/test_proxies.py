"""The configurations of nginx and Caddy in docs/operations.md, in front of the real thing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import END_TIMEOUT_S, Supervisor, eventually
from tests.system.docker_rig import REPOSITORY, free_port

HOST = "llm.example.org"
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


def block(beginning: str) -> str:
    """The indented block of the document that begins so."""
    found = re.search(rf"^    {re.escape(beginning)}.*?^    \}}", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, beginning
    return found[0]


def nginx(folder: Path, upstream: str, port: int) -> list[str]:
    """The command that runs nginx with the document's block."""
    told = block("location / {").replace("http://127.0.0.1:8080", upstream)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, block=told))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    """The command that runs Caddy with the document's block; plain HTTP, as nobody certifies that host here."""
    told = block(f"{HOST} {{").replace("127.0.0.1:8080", upstream.removeprefix("http://"))
    (folder / "Caddyfile").write_text(f"{{\n admin off\n}}\n{told.replace(HOST, f'http://{HOST}:{port}')}\n")
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(scope="module")
def behind(engine_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A supervisor as it is started behind a proxy."""
    assert engine_build.exists()
    folder = tmp_path_factory.mktemp("rs")
    settings = {"RUNNER_TRUSTED_PROXIES": "127.0.0.1", "RUNNER_ALLOWED_HOSTS": HOST}
    with Supervisor(folder / "state", environment=os.environ | settings) as supervisor:
        yield supervisor.wait_ready()


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_streams_come_in_pieces_through_a_proxy(
    proxy: Callable[[Path, str, int], list[str]], behind: Supervisor, tmp_path: Path
) -> None:
    if not shutil.which(proxy.__name__):
        pytest.skip(f"not installed: {proxy.__name__}")
    port = free_port()
    command = proxy(tmp_path, behind.url, port)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, stderr=log, env=os.environ | {"HOME": str(tmp_path)}) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"host": f"{HOST}:{port}"}, timeout=30.0) as client,
    ):
        try:
            eventually(lambda: answers(client), bool, timeout_s=20)
            body = {"prompt": "x", "max_tokens": 4000, "stream": True, "ignore_eos": True}
            with client.stream("POST", "/v1/completions", json=body) as answer:
                assert answer.status_code == 200
                next(answer.iter_raw())
                assert behind.status()["in_flight"] == 1
        finally:
            process.terminate()
            process.wait(END_TIMEOUT_S)


def answers(client: httpx.Client) -> bool:
    """Whether the proxy listens."""
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False
