"""/metrics on the real service."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.conftest import Supervisor, eventually


def series(service: Supervisor) -> dict[str, float]:
    text = httpx.get(f"{service.url}/metrics").text
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_by_path_and_status(service: Supervisor) -> None:
    before = series(service)
    httpx.post(f"{service.url}/v1/completions", json={"prompt": "The sea", "max_tokens": 4})
    httpx.get(f"{service.url}/some/path/of/a/scanner")
    after = series(service)
    for path, status in (("/v1/completions", "200"), ("other", "404")):
        name = f"runner_requests_total[('path', '{path}'), ('status', '{status}')]"
        assert after[name] - before.get(name, 0) == 1
    name = "runner_time_to_first_byte_seconds_count[('path', '/v1/completions')]"
    assert after[name] - before.get(name, 0) == 1


def test_the_engines_state_is_shown(service: Supervisor) -> None:
    now = series(service)
    assert now["runner_engine_up[]"] == 1
    assert now["runner_engine_state[('state', 'ready')]"] == 1
    assert sum(value for name, value in now.items() if name.startswith("runner_engine_state[")) == 1


def test_requests_in_flight_are_shown_and_the_engines_own_series_too(service: Supervisor) -> None:
    body = {"prompt": "The sea", "max_tokens": 20_000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{service.url}/v1/completions", json=body, timeout=60) as response:
        data = response.iter_raw()
        next(data)
        assert series(service)["runner_requests_in_flight[]"] == 1
        eventually(lambda: series(service)["llamacpp:requests_processing[]"], lambda busy: busy == 1, timeout_s=10)
    eventually(lambda: series(service)["runner_requests_in_flight[]"], lambda count: count == 0, timeout_s=5)
