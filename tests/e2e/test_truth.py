"""Counters agree with the truth: what clients saw, what the engine counted, and what /metrics says are the same."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.conftest import Supervisor, engine_gauge, eventually

COMPLETIONS = "/v1/completions"
SHORT = {"prompt": "The sea", "max_tokens": 7, "ignore_eos": True}
STREAM = SHORT | {"stream": True, "stream_options": {"include_usage": True}}
LONG = SHORT | {"max_tokens": 500_000, "stream": True}
SLOTS = 2
WAITING = 2
SETTLED_S = 15.0
TOKENS = ("prompt", "cached", "generated")


@pytest.fixture
def service(engine_build: Path, short_dir: Path) -> Iterator[Supervisor]:
    assert engine_build.exists()
    environment = os.environ | {"RUNNER_QUEUE_SIZE": str(WAITING)}
    flags = ("--", "--embeddings", "--pooling", "mean", "--parallel", str(SLOTS), "--threads", "1")
    with Supervisor(short_dir / "state", *flags, environment=environment) as supervisor:
        yield supervisor.wait_ready()


class Account:
    """What clients saw: how each request ended, and the tokens that whole answers told of."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def answered(self, answer: str) -> str:
        """A whole answer, of a stream its last event. Returns the code of its error, or ""."""
        body = answer.strip().removesuffix("data: [DONE]").strip().rpartition("\n")[2].removeprefix("data: ")
        found = json.loads(body)
        code = found.get("error", {}).get("code", "")
        if not code:
            usage = found["usage"]
            self.tokens["prompt"] += usage["prompt_tokens"]
            self.tokens["cached"] += usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
            self.tokens["generated"] += usage.get("completion_tokens", 0)
            self.ends["ok"] += 1
        elif isinstance(code, int) or code == "engine_failed":  # llama-server's own codes are numbers
            self.ends["error"] += 1
        else:
            self.ends["refused"] += 1
        return str(code)


class Counters:
    """What /metrics says more than at the beginning."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._before: Counter[str] = Counter()
        self._before = self.now()

    def now(self) -> Counter[str]:
        """Requests by how they ended; tokens by kind and source."""
        counts: Counter[str] = Counter()
        for family in text_string_to_metric_families(self._client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == "runner_requests_total":
                    counts[sample.labels["outcome"]] += int(sample.value)
                elif "source" in sample.labels:
                    kind = sample.name.removeprefix("runner_").removesuffix("_tokens_total")
                    counts[f"{kind}, {sample.labels['source']}"] += int(sample.value)
        counts.subtract(self._before)
        return counts

    def queued(self) -> float:
        """How many wait for a slot."""
        lines = self._client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("runner_queue_depth ")).split()[1])

    def ends(self) -> Counter[str]:
        """How requests ended."""
        return +Counter({name: count for name, count in self.now().items() if "," not in name})

    def tokens(self, source: str) -> Counter[str]:
        """Tokens that the engine has counted, or that were estimated."""
        now = self.now()
        return Counter({kind: now[f"{kind}, {source}"] for kind in TOKENS})


class Begun(ExitStack):
    """A stream whose first bytes have come."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__()
        self._pieces = self.enter_context(client.stream("POST", COMPLETIONS, json=LONG)).iter_text()
        next(self._pieces)

    def leave(self) -> None:
        """Hang up."""
        self.close()

    def rest(self) -> str:
        """What comes until its end."""
        return "".join(self._pieces)


@contextmanager
def frozen(service: Supervisor) -> Iterator[int]:
    """The engine stands still meanwhile, unless it is killed. Gives its pid."""
    pid = service.engine_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def engines_own(service: Supervisor) -> Counter[str]:
    """The totals of the engine that runs."""
    with service.engine() as engine:
        cached = int(engine_gauge(engine, "prompt_tokens_cached_total"))
        return Counter(
            prompt=int(engine_gauge(engine, "prompt_tokens_total")) + cached,
            cached=cached,
            generated=int(engine_gauge(engine, "tokens_predicted_total")),
        )


def test_every_request_is_counted_once_and_tokens_are_the_engines(service: Supervisor) -> None:
    key = service.create_key("all", "--scope", "inference", "--scope", "metrics")
    limited = service.create_key("limited", "--rate", "1/h")
    account = Account()
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=service.url, headers={"x-api-key": key}, timeout=60))
        many = stack.enter_context(ThreadPoolExecutor(16))
        truth = Counters(client)

        def ask(body: dict[str, Any], *, path: str = COMPLETIONS, key: str = key) -> httpx.Response:
            return client.post(path, json=body, headers={"x-api-key": key})

        # Answers, errors of the engine's own, keys that are wrong or have reached a limit.
        bodies = [SHORT, STREAM] * 10
        for sent in [many.submit(ask, body) for body in bodies[:4]]:
            account.answered(sent.result().text)
        for body in bodies[4:]:
            account.answered(ask(body).text)
        account.answered(ask({"input": "The sea is deep"}, path="/v1/embeddings").text)
        assert account.answered(ask({"prompt": "x", "grammar": "no grammar at all"}).text) == "400"
        assert account.answered(ask(SHORT, key="rsk_wrong").text) == "invalid_api_key"
        assert account.answered(client.get("/props/of/nobody").text) == "not_found"
        account.answered(ask(SHORT, key=limited).text)
        assert account.answered(ask(SHORT, key=limited).text) == "rate_limit_requests"
        assert truth.ends() == account.ends
        assert truth.tokens("engine") == account.tokens == engines_own(service)
        assert truth.tokens("estimate").total() == 0

        # A full queue, and clients that leave. An engine that stands still keeps its slots for as long as this takes.
        streams = [stack.enter_context(Begun(client)) for _ in range(SLOTS)]
        with frozen(service):
            waiting: list[Future[httpx.Response]] = [many.submit(ask, SHORT) for _ in range(WAITING)]
            eventually(truth.queued, lambda queued: queued == WAITING, timeout_s=SETTLED_S)
            assert account.answered(ask(SHORT).text) == "queue_full"
            for stream in streams:
                stream.leave()
                account.ends["cancelled"] += 1
        for sent in waiting:
            account.answered(sent.result().text)
        eventually(truth.ends, lambda seen: seen == account.ends, timeout_s=SETTLED_S)
        assert truth.tokens("engine") == account.tokens
        assert truth.tokens("estimate")["generated"] >= SLOTS
        assert engines_own(service)["generated"] >= account.tokens["generated"] + SLOTS

        # The engine is killed: streams break, and what waits is for the next one.
        streams = [stack.enter_context(Begun(client)) for _ in range(SLOTS)]
        with frozen(service) as pid:
            waiting = [many.submit(ask, SHORT) for _ in range(WAITING)]
            eventually(truth.queued, lambda queued: queued == WAITING, timeout_s=SETTLED_S)
            os.kill(pid, signal.SIGKILL)
        for stream in streams:
            assert account.answered(stream.rest()) == "engine_failed"
        for sent in waiting:
            assert not account.answered(sent.result().text)
        eventually(truth.ends, lambda seen: seen == account.ends, timeout_s=SETTLED_S)
        assert truth.tokens("engine") == account.tokens
