"""Who asked for what, written down on the real service: every request once, and no word of what it said."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import Supervisor, eventually

SAID = "zebra-orchid-7731"
BODY = {"prompt": SAID, "max_tokens": 5, "ignore_eos": True}


@pytest.fixture(scope="module")
def audited(engine_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Supervisor, str]]:
    """A supervisor, and a key of it."""
    assert engine_build.exists()
    with Supervisor(tmp_path_factory.mktemp("rs") / "s") as supervisor:
        supervisor.wait_ready()
        yield supervisor, supervisor.create_key("alice")


def line_of(supervisor: Supervisor, request_id: str) -> dict[str, Any]:
    """What the audit log says of a request, which it says once."""

    def lines() -> list[dict[str, Any]]:
        written = supervisor.layout.audit_log.read_text().splitlines()
        return [line for line in map(json.loads, written) if line.get("request_id") == request_id]

    (line,) = eventually(lines, bool, timeout_s=10)
    return line


def ask(supervisor: Supervisor, key: str | None, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.request(method, supervisor.url + path, headers=headers, trust_env=False, timeout=30, **more)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_a_line_with_its_figures(audited: tuple[Supervisor, str], stream: bool) -> None:
    supervisor, key = audited
    answer = ask(supervisor, key, "POST", "/v1/completions?secret=in-the-query", json=BODY | {"stream": stream})
    line = line_of(supervisor, answer.headers["x-request-id"])
    assert (line["key_name"], line["method"], line["path"]) == ("alice", "POST", "/v1/completions")
    assert (line["status"], line["outcome"], line["model"]) == (200, "answered", "demo")
    assert line["generated_tokens"] == 5
    assert line["prompt_tokens"] > 0
    assert 0 < line["ttft_ms"] <= line["ms"]
    assert line["address"] == "127.0.0.1"
    assert not {"in-the-query", SAID, key} & set(json.dumps(line).split('"'))


@pytest.mark.parametrize(
    ("key", "asked", "written"),
    [
        (None, ("POST", "/v1/completions"), (401, "refused:invalid_api_key", None)),
        ("rsk_wrong", ("POST", "/v1/completions"), (401, "refused:invalid_api_key", None)),
        ("alice", ("POST", "/props"), (403, "refused:wrong_scope", "alice")),
        ("alice", ("POST", "/secret-path-of-mine"), (404, "refused:not_found", "alice")),
        ("alice", ("GET", "/v1/models"), (200, "answered", "alice")),
    ],
)
def test_refusals_are_written_down_too(
    audited: tuple[Supervisor, str], key: str | None, asked: tuple[str, str], written: tuple[int, str, str | None]
) -> None:
    supervisor, real = audited
    answer = ask(supervisor, real if key == "alice" else key, *asked)
    assert answer.status_code == written[0]
    line = line_of(supervisor, answer.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["key_name"]) == written
    assert "secret-path" not in json.dumps(line)


def test_a_clients_own_id_is_kept_if_it_can_be_written_down(audited: tuple[Supervisor, str]) -> None:
    supervisor, key = audited
    with httpx.Client(base_url=supervisor.url, headers={"x-api-key": key}, trust_env=False) as client:
        assert client.get("/v1/models", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        assert client.get("/v1/models", headers={"x-request-id": 'x" y'}).headers["x-request-id"] != 'x" y'
    assert line_of(supervisor, "mine-1")["path"] == "/v1/models"


def test_a_client_that_leaves_is_written_down_as_abandoned(audited: tuple[Supervisor, str]) -> None:
    supervisor, key = audited
    headers = {"authorization": f"Bearer {key}", "x-request-id": "left-1"}
    body = BODY | {"max_tokens": 20_000, "stream": True}
    with httpx.stream("POST", f"{supervisor.url}/v1/completions", json=body, headers=headers, timeout=30) as answer:
        pieces = answer.iter_raw()
        next(pieces)
    line = line_of(supervisor, "left-1")
    assert (line["outcome"], line["status"]) == ("abandoned", 200)
    assert line["generated_tokens"] > 0


def test_what_was_said_is_written_only_where_that_is_asked_for(engine_build: Path, short_dir: Path) -> None:
    assert engine_build.exists()
    contents = short_dir / "contents.log"
    environment = os.environ | {"RUNNER_LOG_CONTENT": "true", "RUNNER_CONTENT_LOG": str(contents)}
    with Supervisor(short_dir / "state", environment=environment) as supervisor:
        supervisor.wait_ready()
        text = ask(supervisor, None, "POST", "/v1/completions", json=BODY).json()["choices"][0]["text"]
        eventually(lambda: contents.exists() and text in contents.read_text(), bool, timeout_s=10)
        assert SAID in contents.read_text()
        assert contents.stat().st_mode & 0o777 == 0o600
        assert SAID not in supervisor.layout.audit_log.read_text()
        assert str(contents) in supervisor.log


def test_contents_are_not_logged_without_a_file(short_dir: Path) -> None:
    with Supervisor(short_dir / "state", environment=os.environ | {"RUNNER_LOG_CONTENT": "true"}) as supervisor:
        assert supervisor.process.wait(30) == 78
        assert "name it with content_log" in supervisor.log
