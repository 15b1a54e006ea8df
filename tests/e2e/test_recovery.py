"""Crashes without end, a crash loop, and memory that runs out: what the service makes of them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from tests.e2e.conftest import COMMAND, END_TIMEOUT_S, Supervisor, eventually, memory_cgroup
from tests.ledger import Load, short, stream

CRASHES = 100
RECOVERY_S = 1.0
CLIENTS = 8
STREAM_TOKENS = 300


def in_state(service: Supervisor, state: str) -> dict[str, object]:
    """The engine's status, once it is in a state."""
    engine: dict[str, object] = eventually(
        lambda: service.status()["engine"], lambda engine: engine["state"] == state, timeout_s=30, every_s=0.1
    )
    return engine


def descriptors(process: psutil.Process) -> int:
    """How many files a process has open that do not belong to a client's connection."""
    return process.num_fds() - len(process.net_connections("tcp"))


async def health(client: httpx.AsyncClient, *, ready: bool) -> None:
    """Wait until requests are served, or are not."""
    async with asyncio.timeout(30):
        while ((await client.get("/health")).status_code == 200) is not ready:
            await asyncio.sleep(0.005)


@pytest.fixture
def tireless(engine_build: Path, short_dir: Path) -> Iterator[Supervisor]:
    """A service that does not give up after a few crashes, nor wait longer after each."""
    assert engine_build.exists()
    settings = {"RUNNER_BREAKER_DEATHS": "1000", "RUNNER_BACKOFF_CAP_S": "0.2"}
    with Supervisor(
        short_dir / "state", "--", "--threads", "1", environment={**os.environ, **settings}
    ) as supervisor:
        yield supervisor.wait_ready()


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_a_hundred_crashes_lose_no_request_and_leak_nothing(tireless: Supervisor) -> None:
    service, chance = tireless, random.Random(8080)  # noqa: S311
    supervisor = psutil.Process(service.process.pid)
    load = Load(service.url)
    load.one_after_another(short, clients=CLIENTS - 2)
    load.one_after_another(partial(stream, tokens=STREAM_TOKENS), clients=2)
    await load.settled(50)
    before, threads = descriptors(supervisor), supervisor.num_threads()
    took_s = []
    async with httpx.AsyncClient(base_url=service.url) as client:
        for _ in range(CRASHES):
            await load.settled(chance.randrange(2 * CLIENTS, 4 * CLIENTS))
            (engine,) = supervisor.children()
            began = time.monotonic()
            engine.kill()
            await health(client, ready=False)
            await health(client, ready=True)
            took_s.append(time.monotonic() - began)
    ledger = await load.finish()
    print(f"{ledger}; recovery: median {statistics.median(took_s):.2f} s, longest {max(took_s):.2f} s")
    assert ledger.lost == []
    assert ledger.answered + ledger.noticed.total() == ledger.sent
    assert statistics.median(took_s) < RECOVERY_S
    assert service.status()["engine"]["restarts"] == CRASHES
    (engine,) = supervisor.children()
    assert [path.name for path in service.layout.run_dir.glob("*.sock")].count("control.sock") == 1
    assert len(list(service.layout.run_dir.glob("*.sock"))) == 2
    eventually(lambda: descriptors(supervisor), lambda now: now <= before + CLIENTS, timeout_s=20)
    assert supervisor.num_threads() <= threads + 1


def fault_before(engine_build: Path, folder: Path) -> tuple[dict[str, str], Path]:
    """Settings for a llama-server that crashes at start as long as a file is there, and the file."""
    real = engine_build.parent / json.loads(engine_build.read_text())["binary"]
    fault = folder / "fault"
    script = folder / "bin" / "llama-server"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nif [ "$1" != --version ] && [ -e {fault} ]; then\n'
        f'echo "0.00.000.001 E srv  load_model: /etc/secret is broken"; exit 3; fi\nexec {real} "$@"\n'
    )
    script.chmod(0o755)
    return {"LLAMA_CPP_DIR": str(script.parent), "RUNNER_BACKOFF_CAP_S": "0.2"}, fault


@pytest.fixture
def faulty(engine_build: Path, short_dir: Path) -> Iterator[tuple[Supervisor, Path]]:
    """A service that gives up after ten crashes, and the file that makes its llama-server crash at start."""
    settings, fault = fault_before(engine_build, short_dir)
    environment = {**os.environ, **settings, "RUNNER_BREAKER_DEATHS": "10"}
    with Supervisor(short_dir / "state", environment=environment) as supervisor:
        yield supervisor.wait_ready(), fault


def command(service: Supervisor, name: str) -> str:
    """What a command on the service prints."""
    arguments = [*COMMAND, name, "--state-dir", str(service.state_dir)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_crash_loop_ends_in_an_honest_503_and_one_restart_ends_it(faulty: tuple[Supervisor, Path]) -> None:
    service, fault = faulty
    fault.touch()
    psutil.Process(service.engine_pid).kill()
    engine = in_state(service, "failed")
    assert engine["last_cause"] == "exit"
    assert "exit code 3" in str(engine["last_death"])
    assert engine["retry_in_s"]
    answer = httpx.post(f"{service.url}/v1/completions", json={"prompt": "x"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 100
    error = answer.json()["error"]
    assert error["code"] == "engine_failed"
    assert "exit: it ended by itself" in error["message"]
    assert "load_model: secret is broken" in error["message"]
    assert "/etc" not in error["message"]
    fault.unlink()
    assert command(service, "restart") == "restart done: a new engine serves\n"
    assert httpx.post(f"{service.url}/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200


def test_a_restart_after_a_first_start_that_failed_brings_the_service_and_its_banner(
    engine_build: Path, short_dir: Path
) -> None:
    settings, fault = fault_before(engine_build, short_dir)
    fault.touch()
    environment = {**os.environ, **settings, "RUNNER_BREAKER_DEATHS": "2"}
    with Supervisor(short_dir / "state", environment=environment) as service:
        eventually(lambda: "starting -> failed" in service.log, bool, timeout_s=20)
        fault.unlink()
        assert command(service, "restart") == "restart done: a new engine serves\n"
        service.wait_ready()


def test_a_reload_takes_a_new_build_into_use(faulty: tuple[Supervisor, Path]) -> None:
    service, fault = faulty
    assert command(service, "reload") == "reload done: the engine goes on as it is\n"
    binary = fault.parent / "bin" / "llama-server"
    newer = binary.with_name("newer")
    newer.write_text(binary.read_text() + "# another build\n")
    newer.chmod(0o755)
    newer.replace(binary)
    assert command(service, "reload") == "reload done: a new engine serves\n"


LIMIT_BYTES = 400 * 2**20


@pytest.fixture
def confined(engine_build: Path, short_dir: Path) -> Iterator[Supervisor]:
    """A service in a memory cgroup that is too small for what it is told to do, which it is forced to try."""
    assert engine_build.exists()
    flags = ("--force", "--", "--ctx-size", "1048576", "--cache-ram", "64", "--embeddings", "--pooling", "mean")
    with (
        memory_cgroup(short_dir, limit_bytes=LIMIT_BYTES) as python,
        Supervisor(short_dir / "state", *flags, python=python) as supervisor,
    ):
        yield supervisor


def test_memory_that_runs_out_is_named_and_the_engine_comes_back_with_less(confined: Supervisor) -> None:
    service = confined.wait_ready()
    engine = service.status()["engine"]
    assert engine["state"] == "ready"
    assert engine["last_cause"] == "oom"
    assert engine["lowered"][0] == "cache-ram 64 -> 0"
    assert engine["lowered"][-1].startswith("context ")
    assert engine["memory_bytes"] < LIMIT_BYTES
    print(f"memory ran out {len(engine['lowered'])} times; steps: {engine['lowered']}")
    log = service.log
    assert "out of memory, so with less: cache-ram 64 -> 0" in log
    metrics = httpx.get(f"{service.url}/metrics").text
    assert f"runner_engine_lowered {len(engine['lowered'])}.0" in metrics
    assert f'runner_engine_deaths_total{{cause="oom"}} {len(engine["lowered"])}.0' in metrics
    answer = httpx.post(f"{service.url}/v1/completions", json={"prompt": "x", "max_tokens": 1}, timeout=30)
    assert answer.status_code == 200


def test_a_model_that_does_not_fit_is_refused_with_a_context_that_would(engine_build: Path, short_dir: Path) -> None:
    assert engine_build.exists()
    command = [*COMMAND, "start", "--state-dir", str(short_dir), "--port", "0", "--", "--ctx-size", "1000000000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    assert done.returncode == 78
    assert "KV cache" in done.stderr
    assert "would fit: -- --ctx-size" in done.stderr
    assert "--force" in done.stderr
