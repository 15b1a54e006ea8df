"""llama-server dies; the service comes back by itself and says so meanwhile."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psutil
import pytest
from tests.e2e.conftest import Supervisor, eventually

PROMPT = {"prompt": "The sea", "max_tokens": 8, "ignore_eos": True}
LONG = PROMPT | {"max_tokens": 100_000}
"""Many seconds of work."""


def load(service: Supervisor) -> tuple[str, int, int]:
    """The engine's state, requests in flight, and how many of those wait."""
    status = service.status()
    return status["engine"]["state"], status["in_flight"], status["queued"]


def restarts(service: Supervisor) -> float:
    metrics = httpx.get(f"{service.url}/metrics").text.splitlines()
    return float(next(line for line in metrics if line.startswith("runner_engine_restarts_total ")).split()[1])


def health(service: Supervisor) -> tuple[int, str]:
    response = httpx.get(f"{service.url}/health")
    return response.status_code, response.json()["engine"]


def test_a_killed_engine_is_reported_restarted_and_counted(own_service: Supervisor) -> None:
    service = own_service
    assert health(service) == (200, "ready")
    assert restarts(service) == 0
    first = service.engine_pid
    os.kill(first, signal.SIGKILL)
    seen = eventually(lambda: health(service), lambda answer: answer[0] == 503, timeout_s=5, every_s=0)
    assert seen[1] in {"backoff", "starting", "loading"}
    eventually(lambda: health(service), lambda answer: answer == (200, "ready"), timeout_s=30)
    answer = httpx.post(f"{service.url}/v1/completions", json=PROMPT, timeout=30)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert restarts(service) == 1
    status = service.status()
    assert status["engine"]["pid"] != first
    assert "signal 9" in status["engine"]["last_death"]


def test_what_takes_no_slot_gets_503_and_when_to_come_back(own_service: Supervisor) -> None:
    engine = psutil.Process(own_service.engine_pid)
    with httpx.Client(base_url=own_service.url) as client:
        engine.kill()
        response = eventually(
            lambda: client.post("/tokenize", json={"content": "x"}, timeout=30),
            lambda answer: answer.status_code == 503,
            timeout_s=5,
            every_s=0,
        )
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["type"] == "service_unavailable_error"
    assert response.json()["error"]["code"].startswith("engine_")


def test_a_request_that_comes_while_the_engine_is_away_waits_and_is_answered(own_service: Supervisor) -> None:
    psutil.Process(own_service.engine_pid).kill()
    eventually(lambda: health(own_service), lambda answer: answer[0] == 503, timeout_s=5, every_s=0)
    answer = httpx.post(f"{own_service.url}/v1/completions", json=PROMPT, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["x-queue-position"] == "1"
    assert int(answer.headers["x-queue-ms"]) >= 0


def test_a_crash_under_load_loses_no_request_that_had_got_no_byte(own_service: Supervisor) -> None:
    engine = psutil.Process(own_service.engine_pid)
    engine.suspend()  # so that all of them are at work or waiting when it dies
    with httpx.Client(base_url=own_service.url, timeout=90) as client, ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(client.post, "/v1/completions", json=PROMPT) for _ in range(40)]
        eventually(lambda: own_service.status()["queued"], lambda count: count == 36, timeout_s=20)
        engine.kill()
        answers = [each.result() for each in asked]
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {8}
    assert restarts(own_service) == 1


def test_a_stream_whose_engine_dies_ends_with_an_error_event(own_service: Supervisor) -> None:
    body = LONG | {"stream": True}
    engine = psutil.Process(own_service.engine_pid)
    with httpx.stream("POST", f"{own_service.url}/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        engine.kill()
        *_, last = (line for line in lines if line)
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "engine_failed")
    assert error["message"] == "The model server ended (signal 9) before the answer was complete."


def test_the_openai_client_raises_when_the_engine_dies_in_a_stream(own_service: Supervisor) -> None:
    engine = psutil.Process(own_service.engine_pid)
    with openai.OpenAI(base_url=f"{own_service.url}/v1", api_key="unused", max_retries=0) as client:
        stream = client.completions.create(
            model="demo", prompt="The sea", max_tokens=20_000, stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        engine.kill()
        with pytest.raises(openai.APIError, match="signal 9"):
            for _ in stream:
                pass


def test_a_request_that_two_engines_died_of_is_refused_and_others_are_served(own_service: Supervisor) -> None:
    with httpx.Client(base_url=own_service.url, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        poison = pool.submit(client.post, "/v1/completions", json=LONG)
        for number in range(1, 3):
            eventually(lambda: load(own_service), lambda now: now == ("ready", 1, 0), timeout_s=30)
            engine = psutil.Process(own_service.engine_pid)
            engine.kill()
            eventually(lambda: restarts(own_service), lambda count, number=number: count == number, timeout_s=20)
        refused = poison.result()
        served = client.post("/v1/completions", json=PROMPT)
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "poison_request"
    assert "(signal 9, then signal 9)" in refused.json()["error"]["message"]
    assert served.status_code == 200
    assert restarts(own_service) == 2
