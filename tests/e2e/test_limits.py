"""Limits of keys on the real service: what clients are told, what is counted, and what outlives the supervisor."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.component.redis_rig import RedisServer
from tests.e2e.conftest import Supervisor, eventually

from runner_supervisor.keys.store import KeyStore

COMPLETIONS = "/v1/completions"
PROMPT = {"prompt": "The sea", "max_tokens": 5, "ignore_eos": True}
LONG = PROMPT | {"max_tokens": 20_000, "stream": True}


@pytest.fixture(scope="module")
def guarded(engine_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    assert engine_build.exists()
    with Supervisor(tmp_path_factory.mktemp("rs") / "s") as supervisor:
        yield supervisor.wait_ready()


def client(supervisor: Supervisor, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=supervisor.url, headers=headers, trust_env=False, timeout=60)


def error(response: httpx.Response) -> tuple[int, str, str]:
    found = response.json()["error"]
    return response.status_code, found["type"], found["code"]


def test_requests_are_limited_and_told_as_openai_tells_it(guarded: Supervisor) -> None:
    with client(guarded, guarded.create_key("rate", "--rate", "2/h")) as mine:
        first, second, third = (mine.post(COMPLETIONS, json=PROMPT) for _ in range(3))
    assert [each.headers["x-ratelimit-remaining-requests"] for each in (first, second, third)] == ["1", "0", "0"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-reset-requests"].startswith(("29m", "30m"))
    assert error(third) == (429, "rate_limit_error", "rate_limit_requests")
    assert 1700 < int(third.headers["retry-after"]) <= 1801


def test_what_is_only_read_does_not_count(guarded: Supervisor) -> None:
    with client(guarded, guarded.create_key("reader", "--rate", "1/h")) as mine:
        assert [mine.get("/v1/models").status_code for _ in range(3)] == [200, 200, 200]
        assert mine.post(COMPLETIONS, json=PROMPT).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_counted_by_the_engines_own_figures(guarded: Supervisor, stream: bool) -> None:
    with client(guarded, guarded.create_key(f"tokens-{stream}", "--tokens", "1000/day")) as mine:
        body = PROMPT | {"stream": stream, "stream_options": {"include_usage": True}}
        answer = mine.post(COMPLETIONS, json=body)
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        usage: dict[str, Any] = (events[-1] if stream else answer.json())["usage"]
        after = mine.post(COMPLETIONS, json=PROMPT)
    assert usage["completion_tokens"] == 5
    assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1000 - usage["total_tokens"]


def test_a_stream_that_passes_the_budget_ends_whole_and_the_next_request_is_refused(guarded: Supervisor) -> None:
    with client(guarded, guarded.create_key("budget", "--tokens", "30/day")) as mine:
        answer = mine.post(COMPLETIONS, json=PROMPT | {"max_tokens": 100, "stream": True})
        assert answer.text.endswith("data: [DONE]\n\n")
        assert sum(line.startswith("data: {") for line in answer.text.splitlines()) >= 100
        refused = mine.post(COMPLETIONS, json=PROMPT)
    assert error(refused) == (429, "rate_limit_error", "rate_limit_tokens")
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
    assert 0 < int(refused.headers["retry-after"]) <= 86_401


def test_as_many_as_may_be_at_work_at_once_are(guarded: Supervisor) -> None:
    with client(guarded, guarded.create_key("narrow", "--concurrent", "1")) as mine:
        with mine.stream("POST", COMPLETIONS, json=LONG) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            assert error(mine.post(COMPLETIONS, json=PROMPT)) == (429, "rate_limit_error", "rate_limit_concurrent")
        eventually(lambda: mine.post(COMPLETIONS, json=PROMPT).status_code, lambda seen: seen == 200, timeout_s=5)


def test_what_was_used_is_remembered_over_a_kill(engine_build: Path, short_dir: Path) -> None:
    assert engine_build.exists()
    with Supervisor(short_dir / "state") as supervisor:
        supervisor.wait_ready()
        key = supervisor.create_key("day", "--tokens", "20/day", "--rate", "10/day")
        with client(supervisor, key) as mine:
            assert mine.post(COMPLETIONS, json=PROMPT | {"max_tokens": 40}).status_code == 200
        eventually(lambda: used(supervisor, "day"), lambda days: days and days[0]["generated_tokens"], timeout_s=10)
        supervisor.process.kill()
        supervisor.process.wait()
    with Supervisor(short_dir / "state") as supervisor:
        supervisor.wait_ready()
        with client(supervisor, key) as mine:
            refused = mine.post(COMPLETIONS, json=PROMPT)
    assert error(refused)[2] == "rate_limit_tokens"
    assert refused.headers["x-ratelimit-remaining-requests"] == "9"


def used(supervisor: Supervisor, name: str) -> list[dict[str, Any]]:
    """What a key has used, as far as it is on the disk."""
    days: list[dict[str, Any]] = json.loads(supervisor.run("keys", "show", name, "--json"))["used"]
    return days


def test_supervisors_share_limits_through_redis_and_keep_their_own_when_it_is_lost(
    engine_build: Path, short_dir: Path
) -> None:
    assert engine_build.exists()
    redis = RedisServer(short_dir, password="pass-word-7")
    environment = os.environ | {"RUNNER_LIMITS_URL": redis.url}
    with ExitStack() as stack:
        stack.callback(redis.close)
        first, second = (
            stack.enter_context(Supervisor(short_dir / name, environment=dict(environment))) for name in ("a", "b")
        )
        first.wait_ready()
        second.wait_ready()
        key = first.create_key("shared", "--rate", "4/h")
        warm_up = {name: first.create_key(name, "--rate", "1000/min") for name in ("first", "second")}
        give_keys(first, second)
        with client(first, key) as one, client(second, key) as other:
            eventually(lambda: other.get("/v1/models").status_code, lambda seen: seen == 200, timeout_s=5)
            until_shared(first, warm_up["first"], redis)
            until_shared(second, warm_up["second"], redis)
            statuses = [each.post(COMPLETIONS, json=PROMPT).status_code for each in (one, other) * 3]
            assert statuses == [200, 200, 200, 200, 429, 429]
            redis.kill()
            assert error(one.post(COMPLETIONS, json=PROMPT))[2] == "rate_limit_requests"
            eventually(lambda: first.log, lambda log: "our own limits hold" in log, timeout_s=10)
        assert "pass-word-7" not in first.log + second.log


def until_shared(supervisor: Supervisor, key: str, redis: RedisServer) -> None:
    """Ask until Redis is asked, too, and hears of a key: it is connected to in the background."""

    def known() -> int:
        return sum(name.endswith(":use") for name in redis.records())

    before = known()
    with client(supervisor, key) as mine:
        eventually(lambda: (mine.post("/tokenize", json={}), known())[1], lambda now: now > before, timeout_s=10)


def give_keys(giver: Supervisor, taker: Supervisor) -> None:
    """Let both know the same keys, by a copy of the database, which has hashes alone."""
    copy = taker.layout.keys.with_suffix(".copy")
    copy.touch(mode=0o600)
    with closing(sqlite3.connect(giver.layout.keys)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.replace(taker.layout.keys)


def test_revoking_a_key_takes_less_than_a_second_under_load(guarded: Supervisor) -> None:
    doomed = guarded.create_key("doomed")
    others = [guarded.create_key(f"busy-{n}") for n in range(3)]
    ends = threading.Event()

    def work(key: str) -> None:
        with client(guarded, key) as mine:
            while not ends.is_set():
                mine.post(COMPLETIONS, json=PROMPT | {"max_tokens": 50})

    threads = [threading.Thread(target=work, args=(key,)) for key in others]
    for thread in threads:
        thread.start()
    try:
        with client(guarded, doomed) as mine:
            assert mine.get("/v1/models").status_code == 200
            before_s = time.monotonic()
            with closing(KeyStore(guarded.layout.keys)) as keys:
                keys.revoke("doomed")
            eventually(lambda: mine.get("/v1/models").status_code, lambda seen: seen == 401, timeout_s=1)
            print(f"\nrevoked and refused within {time.monotonic() - before_s:.2f} s")
    finally:
        ends.set()
        for thread in threads:
            thread.join()
