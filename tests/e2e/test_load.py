"""Many connections, slow readers, greedy keys: the service stays itself, and fair."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import resource
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from bench import load
from tests.conftest import REPOSITORY
from tests.e2e.conftest import Supervisor

from runner_supervisor.core.access import Scope
from runner_supervisor.keys.store import KeyStore

pytestmark = pytest.mark.anyio

IDLE_CONNECTIONS = 4000
GREEDY = 500
PATIENT = 20
BOTH = 120
MEGABYTE = 1 << 20
FLAT_OUT_CHUNKS = 200_000


@pytest.fixture
def fast_engine(short_dir: Path) -> Iterator[Supervisor]:
    """A supervisor before the bench's engine, which streams faster than any model."""
    prebuilt = short_dir / "prebuilt"
    prebuilt.mkdir()
    launcher = prebuilt / "llama-server"
    core = min(os.sched_getaffinity(0))
    launcher.write_text(
        f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m bench.engine --core {core} --tcp-port 0 "$@"\n'
    )
    launcher.chmod(0o755)
    environment = os.environ | {
        "LLAMA_CPP_DIR": str(prebuilt),
        "RUNNER_CACHE_DIR": str(short_dir / "cache"),
        "RUNNER_API_KEYS": load.KEY,
    }
    with Supervisor(short_dir / "state", environment=environment) as supervisor:
        yield supervisor.wait_ready()


def port(supervisor: Supervisor) -> int:
    return int(supervisor.url.rpartition(":")[2])


def resident_bytes(supervisor: Supervisor) -> int:
    return int(psutil.Process(supervisor.process.pid).memory_info().rss)


def read_for(stream: socket.socket, chunks: int) -> list[float]:
    """Read this many events, and return the moments they came at."""
    times: list[float] = []
    while len(times) < chunks:
        data = stream.recv(65536)
        assert data
        times += [time.monotonic()] * data.count(b"data: ")
    return times


def test_a_client_that_does_not_read_costs_neither_memory_nor_others_their_time(fast_engine: Supervisor) -> None:
    address = port(fast_engine)
    before = resident_bytes(fast_engine)
    slow = load.connect(address)
    slow.sendall(load.stream_request(chunks=FLAT_OUT_CHUNKS, delay_ms=0))
    assert slow.recv(1024)
    with slow, load.connect(address) as other:
        other.sendall(load.stream_request(chunks=100, delay_ms=10))
        times = read_for(other, 100)
        grown = resident_bytes(fast_engine) - before
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    print(f"grown by {grown / MEGABYTE:.1f} MiB; p99 gap {1000 * gaps[int(0.99 * len(gaps))]:.0f} ms")
    assert grown < 8 * MEGABYTE, grown
    assert gaps[int(0.99 * len(gaps))] < 0.5


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as a client of thousands needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * IDLE_CONNECTIONS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_four_thousand_idle_connections_are_all_served_in_less_than_a_gigabyte(fast_engine: Supervisor) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(load.connect(port(fast_engine))) for _ in range(IDLE_CONNECTIONS)]
        for peer in peers:
            peer.sendall(load.request())
            assert peer.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        print(f"resident: {resident_bytes(fast_engine) / MEGABYTE:.0f} MiB")
        assert resident_bytes(fast_engine) < 1024 * MEGABYTE


@pytest.fixture
def one_slot(engine_build: Path, short_dir: Path) -> Iterator[tuple[Supervisor, str, str]]:
    """The real llama-server with one slot, and two keys: the first has thrice the weight of the second."""
    assert engine_build.exists()
    state = short_dir / "state"
    state.mkdir(mode=0o700)
    with contextlib.closing(KeyStore(state / "keys.sqlite")) as keys:
        heavy = keys.create("heavy", scopes=[Scope.INFERENCE], weight=3).secret
        light = keys.create("light", scopes=[Scope.INFERENCE]).secret
    environment = os.environ | {"RUNNER_QUEUE_SIZE": str(2 * GREEDY), "RUNNER_QUEUE_TIMEOUT_S": "600"}
    with Supervisor(state, "--", "--parallel", "1", environment=environment) as supervisor:
        yield supervisor.wait_ready(), heavy, light


@contextlib.asynccontextmanager
async def client(supervisor: Supervisor) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=supervisor.url, limits=limits, timeout=90, trust_env=False) as here:
        yield here


async def ask(here: httpx.AsyncClient, key: str) -> httpx.Response:
    body = json.dumps({"prompt": "The sea", "max_tokens": 64, "ignore_eos": True})
    answer = await here.post("/v1/completions", content=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return answer


def completion(key: str, max_tokens: int) -> bytes:
    body = json.dumps({"prompt": "The sea", "max_tokens": max_tokens, "ignore_eos": True})
    return (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def answer_of(peer: socket.socket) -> tuple[dict[str, str], dict[str, float]]:
    """Wait for an answer; its headers, and the engine's own timings."""
    data = b"".join(iter(lambda: peer.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), data[:300]
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return headers, json.loads(body)["timings"]


def test_a_key_with_hundreds_waiting_does_not_keep_another_key_waiting(one_slot: tuple[Supervisor, str, str]) -> None:
    supervisor, greedy, patient = one_slot
    ratios = []
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(load.connect(port(supervisor))) for _ in range(GREEDY)]
        for peer in peers:
            peer.settimeout(60)
            peer.sendall(completion(greedy, 256))
        for turn in range(0, GREEDY - 1, GREEDY // PATIENT):
            answer_of(peers[turn])  # a key's own are served in order, so the next one has the slot now
            with load.connect(port(supervisor)) as peer:
                peer.sendall(completion(patient, 8))
                headers, _ = answer_of(peer)
            _, timings = answer_of(peers[turn + 1])
            ratios.append(float(headers["x-queue-ms"]) / (timings["prompt_ms"] + timings["predicted_ms"]))
        assert answer_of(peers[-1])  # the queue was never empty
    p95 = sorted(ratios)[math.ceil(0.95 * len(ratios)) - 1]
    print(f"waits in slot-times: median {statistics.median(ratios):.2f}, p95 {p95:.2f}, of {len(ratios)}")
    assert p95 <= 1.5, ratios


async def test_keys_are_served_by_their_weights(one_slot: tuple[Supervisor, str, str]) -> None:
    supervisor, heavy, light = one_slot
    served: list[str] = []

    async def one(here: httpx.AsyncClient, key: str) -> None:
        await ask(here, key)
        served.append(key)

    async with client(supervisor) as here, asyncio.TaskGroup() as group:
        for _ in range(BOTH):
            group.create_task(one(here, heavy))
            group.create_task(one(here, light))
    contended = served[10 : 10 + BOTH]
    ratio = contended.count(heavy) / contended.count(light)
    print(f"served {contended.count(heavy)} to {contended.count(light)}")
    assert 2.7 <= ratio <= 3.3, ratio
