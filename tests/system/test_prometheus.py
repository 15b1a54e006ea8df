"""A real Prometheus scrapes the real service under load, with the configuration and the rules in deploy/."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import REPOSITORY
from tests.e2e.conftest import (
    Supervisor,
    engine_build,  # noqa: F401  a fixture
    eventually,
)

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "runner-supervisor.json"
LOAD_S = 60.0
SCRAPE_S = 0.25
WINDOW_S = 70
"""Longer than the load, so that it has its beginning and its end. `rate` takes what lies between its first and last
scrape for the whole of it: scrapes this often make that half a percent.
"""

SILENT = (
    "runner_gpu_",
    "runner_request_errors_total",
    "runner_requests_retried_total",
    "runner_requests_poison_total",
    "runner_engine_deaths_total",
    "runner_queue_wait_seconds",
)
"""Panels about these have nothing to show on a machine without a GPU where all is well."""


@dataclass
class Prometheus:
    """A running one."""

    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples that a query gives now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10).json()
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def number(self, query: str) -> float:
        """The only sample's value; 0: there is none yet."""
        samples = self.ask(query)
        assert len(samples) <= 1, samples
        return float(samples[0]["value"][1]) if samples else 0.0

    def get(self, path: str) -> Any:
        """What its API says of itself."""
        return httpx.get(f"{self.url}/api/v1/{path}", timeout=10).json()["data"]


@dataclass
class Spent:
    """What a load was told that it has used."""

    prompt: int = 0
    generated: int = 0
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, usage: dict[str, int]) -> None:
        with self.lock:
            self.prompt += usage["prompt_tokens"]
            self.generated += usage["completion_tokens"]
            self.requests += 1


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def prometheus(folder: Path, *, target: str, token: str) -> Iterator[Prometheus]:
    """One with the files in deploy/, but for the address and how often it scrapes."""
    for file in PROMETHEUS.iterdir():
        shutil.copy(file, folder)
    (folder / "runner-supervisor.token").write_text(token)
    config = folder / "prometheus.yml"
    text = config.read_text()
    for before, now in (("127.0.0.1:8080", target), ("interval: 15s", f"interval: {SCRAPE_S * 1000:.0f}ms")):
        assert before in text
        text = text.replace(before, now)
    config.write_text(text)
    port = free_port()
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    log_path = folder / "prometheus.log"
    with log_path.open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log, cwd=folder)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def service(engine_build: Path, short_dir: Path) -> Iterator[Supervisor]:  # noqa: F811
    assert engine_build.exists()
    with Supervisor(short_dir / "state", "--", "--threads", "1") as supervisor:
        yield supervisor.wait_ready()


def one_stream(client: httpx.Client, spent: Spent, *, tokens: int) -> None:
    """One stream, and what it says it has used."""
    body = {"prompt": "The sea", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    with client.stream("POST", "/v1/completions", json=body | {"stream_options": {"include_usage": True}}) as answer:
        last = [line for line in answer.iter_lines() if line.startswith("data: {")][-1]
    spent.add(json.loads(last.removeprefix("data: "))["usage"])


def load(client: httpx.Client, spent: Spent, until: float) -> None:
    """Streams at an even pace: what `rate` is to measure must not depend on how fast this machine is."""
    while time.monotonic() < until:
        one_stream(client, spent, tokens=40)
        time.sleep(0.2)  # the load's pace, not a wait for anything


@pytest.mark.timeout(240)
def test_a_minute_of_load_is_seen_by_prometheus_as_it_was(service: Supervisor, short_dir: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    token = service.create_key("prometheus", "--scope", "metrics")
    key = service.create_key("load")
    client = httpx.Client(base_url=service.url, headers={"x-api-key": key}, timeout=60)
    with client, prometheus(short_dir, target=service.url.removeprefix("http://"), token=token) as watcher:
        one_stream(client, Spent(), tokens=4)  # a series that was never there has no rate
        generated = "sum(runner_generated_tokens_total)"
        eventually(lambda: up(watcher), lambda samples: samples == [1.0], timeout_s=30, every_s=0.2)
        before = eventually(lambda: watcher.number(generated), lambda count: count == 4, timeout_s=10, every_s=0.2)
        prompt_before = watcher.number("sum(runner_prompt_tokens_total)")
        spent, until = Spent(), time.monotonic() + LOAD_S
        clients = [threading.Thread(target=load, args=(client, spent, until)) for _ in range(4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(LOAD_S + 60)
        eventually(
            lambda: watcher.number(generated) - before,
            lambda count: count == spent.generated,
            timeout_s=10,
            every_s=0.2,
        )
        assert watcher.number("sum(runner_prompt_tokens_total)") - prompt_before == spent.prompt
        assert watcher.number('sum(runner_requests_total{outcome="ok"})') == spent.requests + 1
        rated = WINDOW_S * watcher.number(f"sum(rate(runner_generated_tokens_total[{WINDOW_S}s]))")
        assert rated == pytest.approx(spent.generated, rel=0.01)
        print(f"tokens: {spent.generated} by the load's own count, {rated:.0f} by rate()")

        groups = watcher.get("rules")["groups"]
        states = {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}
        assert len(states) == 10
        assert set(states.values()) == {("ok", "inactive")}
        for query in queries():
            shown = watcher.ask(query.replace("$__rate_interval", f"{WINDOW_S}s").replace("$instance", ".*"))
            assert shown or any(name in query for name in SILENT), query


def up(watcher: Prometheus) -> list[float]:
    try:
        return [float(sample["value"][1]) for sample in watcher.ask("up")]
    except httpx.TransportError:
        return []


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_promtool_has_no_complaint_but_about_llama_servers_own_names(service: Supervisor) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    with httpx.Client(base_url=service.url, timeout=60) as client:
        one_stream(client, Spent(), tokens=4)
        text = eventually(
            lambda: client.get("/metrics").text, lambda text: "llamacpp:" in text, timeout_s=10, every_s=0.2
        )
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    complaints = [line.split(" ", 1) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert all(name.startswith("llamacpp:") for name, _ in complaints), done.stderr
    assert {why for name, why in complaints if name != "llamacpp:n_tokens_max"} == {
        "metric names should not contain ':'"
    }
