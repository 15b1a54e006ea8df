"""/metrics on the real service."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.conftest import Supervisor, eventually


def series(service: Supervisor) -> dict[str, float]:
    """All there are, by name and labels but for the model's."""
    text = httpx.get(f"{service.url}/metrics").text
    return {
        sample.name + str(sorted(label for label in sample.labels.items() if label[0] != "model")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_by_path_status_and_how_they_ended(service: Supervisor) -> None:
    before = series(service)
    httpx.post(f"{service.url}/v1/completions", json={"prompt": "The sea", "max_tokens": 4})
    httpx.get(f"{service.url}/some/path/of/a/scanner")
    after = series(service)
    ends = [("ok", "/v1/completions", "2xx"), ("refused", "other", "4xx")]
    names = [f"runner_requests_total[('outcome', '{o}'), ('path', '{p}'), ('status', '{s}')]" for o, p, s in ends]
    for name in [*names, "runner_request_duration_seconds_count[('path', '/v1/completions')]"]:
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
