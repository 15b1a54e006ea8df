"""docker/compose.yaml, started by docker-compose; Prometheus is Debian's, Grafana one who only serves files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import eventually
from tests.system.docker_rig import BASE, BUILD_TIMEOUT_S, REPOSITORY, Docker, free_port, lacking, open_up

from runner_supervisor.planning import demo_model

LACKING = lacking("docker-compose")
pytestmark = [pytest.mark.skipif(bool(LACKING), reason=LACKING or "-"), pytest.mark.timeout(BUILD_TIMEOUT_S)]

UP_S = 300.0
KEY = "a-key-from-a-file"
PROMETHEUS = f"""
FROM {BASE}
RUN apt-get update && apt-get install -y --no-install-recommends prometheus wget \\
    && install -d -o nobody -g nogroup /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
"""
GRAFANA = """
FROM {image}
ENTRYPOINT ["python3", "-m", "http.server", "3000"]
"""


@dataclass(frozen=True)
class Stack:
    """What compose.yaml starts, and how to talk to it."""

    environment: dict[str, str]
    supervisor: str
    prometheus: str

    def run(self, *arguments: str) -> str:
        """What a `docker-compose` command prints."""
        done = subprocess.run(
            ["docker-compose", "--project-name", "rs", "--file", "docker/compose.yaml", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=UP_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus knows of it."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=10.0)
        return list(answer.json()["data"]["result"])


@pytest.fixture(scope="module")
def stack(docker: Docker, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole of it, running."""
    docker.build_text(PROMETHEUS, "prometheus")
    docker.build_text(GRAFANA.format(image=image), "grafana")
    folder = open_up(tmp_path_factory.mktemp("stack"))
    shutil.copy(demo_model(), folder / "model.gguf")
    (folder / "api_key").write_text(f"{KEY}\n")
    (folder / "grafana_password").write_text("secret\n")
    ports = {name: free_port() for name in ("PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")}
    images = {"PROMETHEUS_IMAGE": "prometheus", "GRAFANA_IMAGE": "grafana"}
    given = {"MODELS": str(folder), "SECRETS": str(folder), "MEMORY": "1g", **images}
    started = Stack(
        environment=os.environ | docker.environment | given | {name: str(port) for name, port in ports.items()},
        supervisor=f"http://127.0.0.1:{ports['PORT']}",
        prometheus=f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}",
    )
    try:
        started.run("up", "--detach")
        yield started
    finally:
        started.run("down", "--volumes", "--timeout", "2")


def test_prometheus_scrapes_the_supervisor_with_the_key_from_the_file(stack: Stack) -> None:
    eventually(
        lambda: stack.query('up{job="runner-supervisor"}'),
        lambda found: [each["value"][1] for each in found] == ["1"],
        timeout_s=90, every_s=0.5,
    )  # fmt: skip
    assert stack.query("runner_requests_in_flight")


def test_the_key_from_the_file_opens_the_api(stack: Stack) -> None:
    def asked() -> int:
        body = {"prompt": "x", "max_tokens": 1}
        key = {"Authorization": f"Bearer {KEY}"}
        return httpx.post(f"{stack.supervisor}/v1/completions", json=body, headers=key, timeout=30).status_code

    eventually(asked, lambda status: status == 200, timeout_s=60, every_s=0.5)
    assert httpx.get(f"{stack.supervisor}/v1/models", timeout=10).status_code == 401


def test_grafana_starts_when_prometheus_is_healthy_and_finds_its_provisioning_and_password(stack: Stack) -> None:
    assert "healthy" in stack.run("ps")
    found = stack.run("exec", "-T", "grafana", "cat", "/etc/grafana/provisioning/datasources/prometheus.yaml")
    assert "http://prometheus:9090" in found
    assert "secret" in stack.run("exec", "-T", "grafana", "cat", "/run/secrets/grafana_password")


def test_the_cuda_profile_asks_for_a_gpu(stack: Stack) -> None:
    config = stack.run("--profile", "cuda", "config")
    assert "capabilities" in config
    assert "next-runner:cuda" in config
