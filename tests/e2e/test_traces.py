"""Traces of the real service: spans say what its answers say, and all of them are there when it has ended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.component.collector_rig import UNSET, Collector, collecting
from tests.e2e.conftest import Supervisor

SAID = "zebra-orchid-7731"
CHAT = {
    "messages": [{"role": "user", "content": SAID}],
    "max_tokens": 32,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as here:
        yield here


def usage_of(answer: httpx.Response) -> dict[str, Any]:
    """The figures in a stream's last event."""
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return dict(json.loads(events[-1])["usage"])


def test_a_request_of_a_clients_trace_is_there_with_its_figures_when_the_service_has_ended(
    engine_build: Path, short_dir: Path, collector: Collector
) -> None:
    assert engine_build.exists()
    environment = os.environ | {"RUNNER_TRACES_URL": collector.url, "OTEL_SERVICE_NAME": "my-models"}
    with Supervisor(short_dir / "s", environment=environment) as supervisor:
        supervisor.wait_ready()
        with httpx.Client(base_url=supervisor.url, trust_env=False, timeout=30) as client:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            answer = client.post("/v1/chat/completions", json=CHAT, headers=headers)
            client.get("/v1/models").raise_for_status()
        usage = usage_of(answer)
        supervisor.run("stop")
        assert "Traceback" not in supervisor.log
    models, chat = sorted(collector.requests(), key=lambda span: span.name)
    assert (models.name, models.parent) == ("GET /v1/models", "")
    assert (chat.name, chat.trace, chat.parent, chat.status) == ("POST /v1/chat/completions", TRACE, PARENT, UNSET)
    assert chat.resource["service.name"] == "my-models"
    assert chat.said["runner.request_id"] == answer.headers["x-request-id"]
    assert (usage["completion_tokens"], chat.said["runner.usage.estimated"]) == (32, False)
    assert chat.said["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert chat.said["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert [span.name for span in collector.children(chat)] == ["queue", "engine", "stream"]
    assert all(span.began_ns < span.ended_ns for span in collector.spans)
    assert not [body for body in collector.bodies if SAID.encode() in body]


def test_it_serves_and_stops_without_its_collector(engine_build: Path, short_dir: Path) -> None:
    assert engine_build.exists()
    with collecting() as gone:
        url = gone.url
    with Supervisor(short_dir / "s", environment=os.environ | {"RUNNER_TRACES_URL": url}) as supervisor:
        supervisor.wait_ready()
        assert httpx.post(f"{supervisor.url}/v1/chat/completions", json=CHAT, trust_env=False).status_code == 200
        supervisor.run("stop")
        assert supervisor.process.wait(10) == 0
        assert "the last traces could not be handed over within 2 s" in supervisor.log
        assert "Traceback" not in supervisor.log
