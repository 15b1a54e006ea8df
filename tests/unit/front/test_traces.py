"""What a request's span says of it, where traces go, and what is needed for them."""

from __future__ import annotations

import sys

import pytest

from runner_supervisor.errors import ConfigError
from runner_supervisor.front.audit import ABANDONED, ANSWERED, BROKEN, CANCELLED, Entry, refused
from runner_supervisor.front.routes import ROUTES
from runner_supervisor.front.traces import (
    OPERATIONS,
    Phase,
    attributes,
    endpoint_of,
    fault_of,
    name_of,
    operation_of,
    phases,
    tracing,
)
from runner_supervisor.settings import Settings

ENTRY = Entry(
    time_s=1_700_000_000.25,
    request_id=b"id-1",
    key="abcdef012345",
    key_name="ci",
    address="192.0.2.1",
    method="POST",
    path="/v1/chat/completions",
    status=200,
    outcome=ANSWERED,
    ms=90.0,
    model="demo",
    prompt_tokens=3,
    cached_tokens=0,
    generated_tokens=7,
    queue_ms=10.0,
    ttft_ms=30.0,
)


def test_a_span_says_whose_it_is_and_what_it_cost() -> None:
    assert attributes(ENTRY, scheme="https", estimated=True) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "url.scheme": "https",
        "client.address": "192.0.2.1",
        "runner.request_id": "id-1",
        "runner.key.id": "abcdef012345",
        "runner.outcome": "answered",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama.cpp",
        "gen_ai.request.model": "demo",
        "gen_ai.response.model": "demo",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 7,
        "runner.usage.estimated": True,
    }


def test_what_the_engine_was_not_at_work_on_cost_nothing() -> None:
    entry = ENTRY._replace(
        key=None, status=None, outcome=ABANDONED, prompt_tokens=0, generated_tokens=0, queue_ms=0.0, ttft_ms=None
    )
    said = attributes(entry, scheme="http", estimated=False)
    assert said["gen_ai.request.model"] == "demo"
    assert not {"runner.key.id", "http.response.status_code", "gen_ai.response.model"} & set(said)
    assert not [name for name in said if "usage" in name]


def test_what_takes_no_slot_is_no_generation() -> None:
    said = attributes(ENTRY._replace(path="/v1/models", method="GET"), scheme="http", estimated=False)
    assert not [name for name in said if name.startswith("gen_ai")]


def test_every_route_that_takes_a_slot_has_an_operation() -> None:
    queued = {label.removeprefix("/v1") for label, route in ROUTES.items() if route.queued}
    assert queued == set(OPERATIONS)
    assert operation_of(ENTRY._replace(method="GET")) is None


@pytest.mark.parametrize(
    ("method", "path", "name", "said"),
    [
        ("POST", "/v1/messages", "POST /v1/messages", "POST"),
        ("GET", "other", "GET", "GET"),
        ("PROPFIND", "asset", "HTTP", "_OTHER"),
    ],
)
def test_names_are_few(method: str, path: str, name: str, said: str) -> None:
    entry = ENTRY._replace(method=method, path=path)
    assert name_of(entry) == name
    assert attributes(entry, scheme="http", estimated=False)["http.request.method"] == said


@pytest.mark.parametrize(
    ("status", "outcome", "fault"),
    [
        (200, ANSWERED, None),
        (400, ANSWERED, None),
        (500, ANSWERED, "engine_5xx"),
        (401, refused("invalid_api_key"), None),
        (429, refused("queue_full"), None),
        (503, refused("queue_timeout"), "queue_timeout"),
        (502, refused("engine_failed"), "engine_failed"),
        (200, BROKEN, "broken"),
        (200, ABANDONED, None),
        (None, ABANDONED, None),
        (200, CANCELLED, None),
        (503, CANCELLED, "cancelled"),
    ],
)
def test_faults_are_ours_alone(status: int | None, outcome: str, fault: str | None) -> None:
    entry = ENTRY._replace(status=status, outcome=outcome)
    assert fault_of(entry) == fault
    assert attributes(entry, scheme="http", estimated=False).get("error.type") == fault


def test_phases_follow_each_other_without_a_gap() -> None:
    queue = Phase("queue", 0.0, 10.0)
    assert phases(ENTRY, streamed=True) == (queue, Phase("engine", 10.0, 30.0), Phase("stream", 30.0, 90.0))
    assert phases(ENTRY, streamed=False) == (queue, Phase("engine", 10.0, 90.0))
    assert phases(ENTRY._replace(ttft_ms=None), streamed=True) == (queue, Phase("engine", 10.0, 90.0))


def test_what_never_got_to_the_engine_or_takes_no_slot_has_no_phases() -> None:
    assert phases(ENTRY._replace(queue_ms=0.0, ttft_ms=None), streamed=False) == ()
    assert phases(ENTRY._replace(path="/tokenize"), streamed=False) == ()


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://host:4318", "http://host:4318/v1/traces"),
        ("https://host/", "https://host/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
    ],
)
def test_a_url_without_a_path_gets_the_usual_one(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint


def test_traces_are_off_unless_asked_for() -> None:
    with tracing(Settings()) as tracer:
        assert tracer is None


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "runner_supervisor.front.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    settings = Settings(traces_url="http://127.0.0.1:4318")
    with pytest.raises(ConfigError, match=r"pip install 'runner-supervisor\[otel\]'"), tracing(settings):
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
    ],
)
def test_opentelemetrys_own_variables_may_be_wrong(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match=r"OpenTelemetry cannot begin: .*OTEL_"),
        tracing(Settings(traces_url="http://127.0.0.1:4318")),
    ):
        pass
