"""`runner-supervisor bench` against the real service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.conftest import COMMAND, END_TIMEOUT_S, Supervisor, begun, eventually

CHAT = "/v1/chat/completions"


def bench(service: Supervisor, *options: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """The command, ended."""
    command = [*COMMAND, "bench", "--state-dir", str(service.state_dir), *options]
    environment = os.environ | ({"API_KEY": key} if key else {})
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def counters(service: Supervisor) -> Counter[str]:
    """Chats and their tokens so far, as /metrics counts them."""
    text = httpx.get(f"{service.url}/metrics").text
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("path") == CHAT:
                found[sample.name] += int(sample.value)
    return found


def test_its_figures_are_those_of_the_services_own_counters(service: Supervisor, tmp_path: Path) -> None:
    before = counters(service)
    drawn = tmp_path / "bench.png"
    options = ["--concurrency", "1,2", "--requests", "4", "--max-tokens", "16", "--json", "--png", str(drawn)]
    done = bench(service, *options)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    ended = before["runner_requests_total"] + 9
    after = eventually(lambda: counters(service), lambda seen: seen["runner_requests_total"] == ended, timeout_s=10)
    for kind in ("prompt", "generated"):
        counted = after[f"runner_{kind}_tokens_total"] - before[f"runner_{kind}_tokens_total"]
        measured = sum(step[f"{kind}_tokens"] for step in report["steps"])
        assert counted == measured + report[f"warm_up_{kind}_tokens"]
    assert [step["answers"] for step in report["steps"]] == [4, 4]
    assert {step["generated_tokens"] for step in report["steps"]} == {64}
    assert all(48 <= step["prompt_tokens"] / 4 <= 80 for step in report["steps"])
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_no_cache_helps_its_prompts(service: Supervisor) -> None:
    done = bench(service, "--concurrency", "1", "--requests", "6", "--max-tokens", "4", "--json")
    [step] = json.loads(done.stdout)["steps"]
    assert step["cached_tokens"] < step["prompt_tokens"] / 5


def test_a_key_is_asked_for_and_used(own_service: Supervisor) -> None:
    key = own_service.create_key("bench")
    options = ["--concurrency", "1", "--requests", "1", "--max-tokens", "4"]
    refused = bench(own_service, *options)
    assert refused.returncode == 1
    assert "give a key in API_KEY (or with --key); `runner-supervisor keys create --name bench`" in refused.stderr
    done = bench(own_service, *options, key=key)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:3] == ["1", "1", "0"]
    assert key not in done.stdout + done.stderr


def test_ctrl_c_shows_what_was_measured(service: Supervisor) -> None:
    options = ["--concurrency", "1,2", "--seconds", "600", "--max-tokens", "4", "--json"]
    before = counters(service)["runner_requests_total"]
    command = [*COMMAND, "bench", "--url", f"{service.url}/v1", *options]
    with begun(command) as running:
        eventually(lambda: counters(service)["runner_requests_total"], lambda seen: seen > before + 5, timeout_s=60)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=END_TIMEOUT_S)
    assert running.returncode == 130
    assert "interrupted" in err
    report = json.loads(out)
    assert report["interrupted"]
    assert [step["answers"] >= 4 for step in report["steps"]] == [True]


def test_where_nothing_runs_there_is_nothing_to_load(tmp_path: Path) -> None:
    command = [*COMMAND, "bench", "--state-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    assert done.returncode == 3
    assert "no supervisor runs on" in done.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--requests", "1", "--seconds", "1"], "--requests and --seconds both end a step"),
        (["--concurrency", "many"], "--concurrency takes up to 16 numbers"),
        (["--url", "here"], "--url takes an address"),
        (["--key", "schlüssel"], "the API key has characters that no key has"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(options: list[str], complaint: str) -> None:
    command = [*COMMAND, "bench", *options]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False
    )
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_picture_needs_a_folder_before_anything_is_measured(tmp_path: Path) -> None:
    command = [*COMMAND, "bench", "--url", "http://127.0.0.1:1", "--png", str(tmp_path / "none" / "bench.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    assert done.returncode == 1
    assert "there is no folder" in done.stderr


def test_a_picture_that_cannot_be_written_is_said_after_the_table(service: Supervisor, tmp_path: Path) -> None:
    done = bench(service, "--concurrency", "1", "--requests", "1", "--max-tokens", "2", "--png", str(tmp_path))
    assert done.returncode != 0
    assert done.stdout.startswith("streams")
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
