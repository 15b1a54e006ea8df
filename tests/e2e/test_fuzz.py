"""Ten thousand requests that nobody should send: none of them is the front's undoing, nor the engine's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator

import httpx
import psutil
from tests.e2e.conftest import Supervisor, eventually

from runner_supervisor.front.routes import ROUTES

REQUESTS = 10_000
AT_ONCE = 24
PATIENCE_S = 0.25
SEED = 5
MEGABYTE = 1 << 20

METHODS = ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "TRACE", "CONNECT", "BREW", "post", ""]
PATHS = [
    *ROUTES,
    "/",
    "/health",
    "/metrics",
    "/admin/status",
    "//v1/models",
    "/../x",
    "/%00",
    "/%u0041",
    "*",
    "x",
    "#",
]
HEADERS = [
    "Content-Type: application/json",
    "Accept-Encoding: gzip",
    "Expect: 100-continue",
    "Connection: upgrade",
    "Upgrade: websocket",
    "Connection: close",
    "Transfer-Encoding: gzip",
    "Origin: http://evil.example",
    "Te: trailers",
    "Range: bytes=0-",
    "X-Conversation-Id: ../../x",
    "Authorization: Bearer \u00ff",
    "Host: y",
    "X-Long: " + "x" * 9000,
]
SCRAPS = [None, True, 0, -1, 1e308, "", "x", "\ud83d\ude00", "\u0000", [], {}, [[]], {"a": {"b": []}}, ["x"] * 9]
FIELDS = [
    *("prompt", "messages", "input", "content", "tokens", "max_tokens", "n_predict", "stream", "temperature", "stop"),
    *("n", "grammar", "json_schema", "logit_bias", "tools", "model", "query", "documents", "input_prefix", "id_slot"),
]
FRAMINGS = [
    "Content-Length: {n}\r\nContent-Length: {n}",
    "Content-Length: {n}\r\nTransfer-Encoding: chunked",
    "Content-Length: -1",
    "Content-Length: {n}x",
    "Content-Length: 0x10",
    "Content-Length: 99999999999999999999",
    "Content-Length : {n}",
    "Content-Length:\t{n}",
    "Content-Length: {n}\r\n folded: yes",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: xchunked",
]


def a_body(dice: random.Random) -> bytes:
    fields = dice.sample(FIELDS, dice.randint(0, 5))
    body = {field: dice.choice(SCRAPS) for field in fields} | {"n_predict": 1, "max_tokens": 1}
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    return text if dice.random() < 0.7 else text[: dice.randint(0, len(text))]


def a_request(dice: random.Random) -> bytes:
    """A request that is right but for what the dice say."""
    body = a_body(dice)
    lines = [
        f"{dice.choice(METHODS[:2]) if dice.random() < 0.8 else dice.choice(METHODS)} {dice.choice(PATHS)} HTTP/1.1"
    ]
    lines += ["Host: localhost", *dice.sample(HEADERS, dice.randint(0, 3))]
    framing = "Content-Length: {n}" if dice.random() < 0.7 else dice.choice(FRAMINGS)
    if framing.startswith("Transfer-Encoding") and dice.random() < 0.8:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    lines.append(framing.format(n=len(body)))
    request = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    if dice.random() < 0.3:
        damaged = bytearray(request)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        request = bytes(damaged)
    return request


async def answer_to(port: int, request: bytes) -> bytes:
    """What comes back at first; nothing, if the rest of the request is waited for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read(65536)
        return b""
    finally:
        writer.transport.abort()


async def send_all(port: int) -> Counter[int]:
    """Send them, so many at once, and count the answers by status; 0 is none."""
    dice = random.Random(SEED)  # noqa: S311
    requests: Iterator[bytes] = (a_request(dice) for _ in range(REQUESTS))
    statuses: Counter[int] = Counter()

    async def worker() -> None:
        for request in requests:
            answer = await answer_to(port, request)
            status = int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0
            statuses[status] += 1
            ours = b'"param": null' in answer
            assert not (ours and status >= 500), (request, answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
    return statuses


def test_ten_thousand_wrong_requests_leave_front_and_engine_as_they_were(own_service: Supervisor) -> None:
    supervisor = psutil.Process(own_service.process.pid)
    engine_pid = own_service.engine_pid
    port = int(own_service.url.rpartition(":")[2])
    files, resident = supervisor.num_fds(), supervisor.memory_info().rss

    statuses = asyncio.run(send_all(port))

    assert sum(statuses.values()) == REQUESTS
    assert statuses[400] > REQUESTS / 10
    assert statuses[200] > REQUESTS / 50
    assert own_service.engine_pid == engine_pid
    assert httpx.get(f"{own_service.url}/health").status_code == httpx.codes.OK
    eventually(supervisor.num_fds, lambda now: now <= files + 8, timeout_s=10)
    assert supervisor.memory_info().rss - resident < 64 * MEGABYTE
    log = own_service.log
    assert "Traceback" not in log, log[log.find("Traceback") - 800 :]
