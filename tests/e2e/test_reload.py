"""Changes while clients are served: nobody notices, whether they work out or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from tests.e2e.conftest import COMMAND, PYTHON, Supervisor, eventually, memory_cgroup
from tests.ledger import Ledger, Load, short, stream

from runner_supervisor.planning import demo_model

SLOTS = 24
STREAMS = 16
PER_S = 200
STREAM_TOKENS = 400


class Configured:
    """A service with a settings file."""

    def __init__(self, folder: Path, *, python: Path = PYTHON, ctx: int = 32768) -> None:
        self.folder = folder
        self.config = folder / "settings.toml"
        self.write(ctx=ctx)
        self.service = Supervisor(folder / "state", "--config", str(self.config), python=python)

    def write(self, *, ctx: int, **settings: object) -> None:
        """Write the settings file; all but the context stays unless given."""
        flags = ["--parallel", str(SLOTS), "--kv-unified", "--threads", "1", "--ctx-size", str(ctx)]
        values: dict[str, object] = {"model": str(demo_model()), "engine_args": flags, "queue_size": 2000}
        values |= settings
        self.config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this service."""
        state = ("--state-dir", str(self.service.state_dir))
        return subprocess.run([*COMMAND, *arguments, *state], capture_output=True, text=True, timeout=60, check=False)

    def status(self) -> dict[str, Any]:
        return self.service.status()


@pytest.fixture
def configured(engine_build: Path, short_dir: Path) -> Iterator[Configured]:
    assert engine_build.exists()
    here = Configured(short_dir)
    with here.service:
        here.service.wait_ready()
        yield here


@asynccontextmanager
async def under_load(configured: Configured) -> AsyncIterator[Load]:
    """200 short requests a second and 16 streams, all through what the test does."""
    load = Load(configured.service.url)
    began = time.monotonic()
    load.at_a_pace(short, per_s=PER_S)
    load.one_after_another(partial(stream, tokens=STREAM_TOKENS), clients=STREAMS)
    try:
        await load.settled(200)
        yield load
        await load.settled(200)
    finally:
        ledger = await load.finish()
    print(f"{ledger} in {time.monotonic() - began:.1f} s")
    check(ledger)


def check(ledger: Ledger) -> None:
    """Every request was answered whole."""
    print(
        f"{ledger.sent} sent, {ledger.answered} answered, {dict(ledger.noticed)} with notice, {ledger.lost[:5]} lost"
    )
    assert ledger.lost == []
    assert not ledger.noticed
    assert ledger.answered == ledger.sent


@pytest.mark.anyio
async def test_a_reload_under_load_brings_a_new_engine_and_fails_no_request(configured: Configured) -> None:
    before = configured.status()["engine"]["pid"]
    async with under_load(configured):
        configured.write(ctx=16384)
        done = await anyio.to_thread.run_sync(configured.command, "reload")
        assert done.stdout == "reload done: a new engine serves; changed: engine_args\n", done.stderr
    after = configured.status()
    assert after["engine"]["pid"] != before
    assert after["change"]["progress"] == "done"
    assert after["engine"]["restarts"] == 0
    with configured.service.engine() as direct:
        assert direct.get("/props").json()["default_generation_settings"]["n_ctx"] == 16384


@pytest.mark.anyio
async def test_a_restart_under_load_fails_no_request(configured: Configured) -> None:
    before = configured.status()["engine"]["pid"]
    async with under_load(configured):
        done = await anyio.to_thread.run_sync(configured.command, "restart")
        assert done.returncode == 0, done.stderr
    assert configured.status()["engine"]["pid"] != before


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["truncated", "of no known architecture"])
async def test_a_reload_to_a_broken_model_fails_no_request_and_status_says_why(
    configured: Configured, fault: str
) -> None:
    before = configured.status()["engine"]["pid"]
    model = demo_model().read_bytes()
    broken = configured.folder / "broken.gguf"
    broken.write_bytes(model[: len(model) // 2] if fault == "truncated" else model.replace(b"llama", b"lloma"))
    async with under_load(configured):
        configured.write(ctx=32768, model=str(broken))
        done = await anyio.to_thread.run_sync(configured.command, "reload")
        assert done.returncode == 1
    status = configured.status()
    assert status["engine"]["pid"] == before
    assert status["engine"]["state"] == "ready"
    assert status["engine"]["model"] == str(demo_model())
    assert status["change"]["progress"] == "failed"
    assert status["change"]["detail"] in done.stderr
    assert ("broken.gguf" if fault == "truncated" else "architecture") in status["change"]["detail"]


BIG_CTX = 524_288
LIMIT_BYTES = 1300 * 2**20
"""Room for one llama-server with so much context (about 800 MiB) and the supervisor, not for two."""


@pytest.fixture
def confined(engine_build: Path, short_dir: Path) -> Iterator[Configured]:
    assert engine_build.exists()
    with memory_cgroup(short_dir, limit_bytes=LIMIT_BYTES) as python:
        here = Configured(short_dir, python=python, ctx=BIG_CTX)
        with here.service:
            here.service.wait_ready()
            yield here


@pytest.mark.anyio
async def test_where_memory_allows_only_one_engine_requests_wait_while_one_follows_the_other(
    confined: Configured,
) -> None:
    before = confined.status()["engine"]["pid"]
    async with under_load(confined):
        confined.write(ctx=BIG_CTX - 256)
        done = await anyio.to_thread.run_sync(confined.command, "reload")
        assert done.returncode == 0, done.stderr
    engine = confined.status()["engine"]
    assert engine["pid"] != before
    assert engine["last_cause"] is None
    assert "one makes room for the other" in confined.service.log


@pytest.mark.anyio
async def test_where_memory_allows_only_one_engine_a_broken_model_brings_the_old_one_back(
    confined: Configured,
) -> None:
    broken = confined.folder / "broken.gguf"
    broken.write_bytes(demo_model().read_bytes().replace(b"llama", b"lloma"))
    async with under_load(confined):
        confined.write(ctx=BIG_CTX, model=str(broken))
        done = await anyio.to_thread.run_sync(confined.command, "reload")
        assert done.returncode == 1
    status = confined.status()
    assert status["engine"]["state"] == "ready"
    assert status["engine"]["model"] == str(demo_model())
    assert "the old one was started again" in status["change"]["detail"]


def test_a_hangup_reloads_what_needs_no_new_engine(configured: Configured) -> None:
    before = configured.status()
    configured.write(ctx=32768, max_body_bytes=100)
    os.kill(configured.service.process.pid, signal.SIGHUP)
    eventually(
        lambda: configured.status()["change"], lambda change: change and change["progress"] == "done", timeout_s=20
    )
    assert configured.status()["engine"]["pid"] == before["engine"]["pid"]
    answer = httpx.post(f"{configured.service.url}/v1/completions", json={"prompt": "x" * 200})
    assert answer.status_code == 413


def test_what_cannot_change_while_running_is_refused_and_nothing_changes(configured: Configured) -> None:
    configured.write(ctx=16384, host="127.0.0.2")
    done = configured.command("reload")
    assert done.returncode == 1
    assert "host cannot change while running" in done.stderr
    with configured.service.engine() as direct:
        assert direct.get("/props").json()["default_generation_settings"]["n_ctx"] == 32768


def test_settings_that_make_no_sense_change_nothing(configured: Configured) -> None:
    configured.config.write_text("queue_size = 'many'\n")
    done = configured.command("reload")
    assert done.returncode == 1
    assert "queue_size" in done.stderr
    assert httpx.get(f"{configured.service.url}/health").status_code == 200
