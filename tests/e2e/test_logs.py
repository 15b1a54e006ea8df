"""What a collector of logs gets from the real service, and how its level is changed while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import Supervisor, eventually


@pytest.fixture(scope="module")
def logging_service(
    engine_build: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Supervisor, Path]]:
    """A supervisor that logs requests and llama-server's lines, and its settings file."""
    assert engine_build.exists()
    folder = tmp_path_factory.mktemp("rs")
    config = folder / "settings.toml"
    config.write_text("log_requests = true\nlog_engine = true\n")
    with Supervisor(folder / "s", "--config", str(config)) as supervisor:
        yield supervisor.wait_ready(), config


def lines(supervisor: Supervisor, **wanted: object) -> list[dict[str, Any]]:
    """What it has logged with such fields; each line is JSON but for what is printed for people before it serves."""
    found = [json.loads(line) for line in supervisor.log.splitlines() if line.startswith("{")]
    return [line for line in found if wanted.items() <= line.items()]


def test_a_request_is_a_line_with_its_figures(logging_service: tuple[Supervisor, Path]) -> None:
    supervisor, _ = logging_service
    body = {"prompt": "The sea", "max_tokens": 5, "ignore_eos": True}
    answer = httpx.post(f"{supervisor.url}/v1/completions", json=body)
    name = answer.headers["x-request-id"]
    (line,) = eventually(lambda: lines(supervisor, logger="requests", request_id=name), bool, timeout_s=10)
    assert (line["level"], line["source"], line["status"], line["model"]) == ("info", "front", 200, "demo")
    assert line["generated_tokens"] == 5
    assert 0 < line["ttft_ms"] <= line["ms"]
    assert line["message"].startswith("POST /v1/completions 200 answered, ")


def test_llama_servers_lines_have_its_level_and_say_whose_they_are(logging_service: tuple[Supervisor, Path]) -> None:
    supervisor, _ = logging_service
    assert eventually(lambda: lines(supervisor, source="engine", level="info"), bool, timeout_s=10)
    shown = supervisor.run("logs", "--json", "-n", "3").splitlines()
    assert [json.loads(line)["source"] for line in shown] == ["engine"] * 3


def test_the_level_is_changed_while_it_runs_and_a_reload_changes_it_only_if_the_settings_do(
    logging_service: tuple[Supervisor, Path],
) -> None:
    supervisor, config = logging_service
    assert supervisor.run("log-level") == "info"
    assert supervisor.run("log-level", "error") == "error"
    supervisor.run("reload")
    assert supervisor.run("log-level") == "error"
    config.write_text(config.read_text() + 'log_level = "warning"\n')
    supervisor.run("reload")
    assert supervisor.run("log-level") == "warning"


def test_a_level_that_there_is_not_is_refused(logging_service: tuple[Supervisor, Path]) -> None:
    supervisor, _ = logging_service
    transport = httpx.HTTPTransport(uds=str(supervisor.layout.control_socket))
    with httpx.Client(transport=transport, base_url="http://control") as control:
        answer = control.post("/admin/log-level?level=loud")
    assert answer.status_code == 400
    assert "level" in answer.json()["error"]["message"]
