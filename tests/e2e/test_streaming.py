"""A stream reaches the client as it is generated, and a client that leaves is noticed."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

import httpx
import psutil
from tests.e2e.conftest import Supervisor, engine_gauge, eventually

LONG_PROMPT = "sea " * 1500
"""Long enough a context that a token of the demo model takes a good part of a millisecond."""

CHUNKS = 200
LONG = {"prompt": "The sea", "max_tokens": 20_000, "ignore_eos": True}


def test_a_stream_of_200_chunks_arrives_chunk_by_chunk(service: Supervisor) -> None:
    body = LONG | {"prompt": LONG_PROMPT, "max_tokens": CHUNKS, "stream": True}
    with httpx.stream("POST", f"{service.url}/v1/completions", json=body, timeout=60) as response:
        reads = [(time.monotonic(), data) for data in response.iter_raw()]
    chunks = [data.count(b"data: {") for _, data in reads]
    assert sum(chunks) >= CHUNKS
    assert len(reads) >= CHUNKS // 4
    assert max(chunks) <= CHUNKS // 4
    last = json.loads(b"".join(data for _, data in reads).split(b"data: ")[-2])
    span_ms = 1000 * (reads[-1][0] - reads[0][0])
    assert span_ms >= last["timings"]["predicted_ms"] / 2


def test_a_client_that_hangs_up_mid_stream_frees_its_slot_within_a_second(service: Supervisor) -> None:
    body = LONG | {"stream": True}
    with service.engine() as engine:
        with httpx.stream("POST", f"{service.url}/v1/completions", json=body, timeout=60) as response:
            data = response.iter_raw()
            next(data)
            assert engine_gauge(engine, "requests_processing") == 1
        eventually(lambda: engine_gauge(engine, "requests_processing"), lambda busy: busy == 0, timeout_s=1)


def test_a_killed_client_frees_its_slot_too(service: Supervisor) -> None:
    body = json.dumps(LONG | {"stream": True})
    script = (
        "import sys, httpx\n"
        f"with httpx.stream('POST', '{service.url}/v1/completions', content='{body}') as response:\n"
        "    data = response.iter_raw(); next(data); print('streaming', flush=True); sys.stdin.read()\n"
    )
    client = psutil.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1)
    with service.engine() as engine:
        assert client.stdout.readline() == b"streaming\n"
        os.kill(client.pid, signal.SIGKILL)
        client.communicate()
        eventually(lambda: engine_gauge(engine, "requests_processing"), lambda busy: busy == 0, timeout_s=1)


def test_an_abandoned_request_without_streaming_frees_its_slot_while_others_stream(service: Supervisor) -> None:
    stream = LONG | {"prompt": LONG_PROMPT, "stream": True}
    whole = json.dumps(LONG)
    with service.engine() as engine:
        with httpx.stream("POST", f"{service.url}/v1/completions", json=stream, timeout=60) as response:
            data = response.iter_raw()
            next(data)
            with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2]))) as client:
                client.sendall(post("/v1/completions", whole))
                eventually(lambda: engine_gauge(engine, "requests_processing"), lambda busy: busy == 2, timeout_s=10)
            eventually(lambda: engine_gauge(engine, "requests_processing"), lambda busy: busy == 1, timeout_s=2)
            assert next(data)
        eventually(lambda: engine_gauge(engine, "requests_processing"), lambda busy: busy == 0, timeout_s=1)


def post(path: str, body: str) -> bytes:
    """A request with a body, as bytes."""
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
