"""Clients that put a service under load, and a ledger of what became of each request.

They speak HTTP themselves, a connection for each request: a client library would take more of the processor than
what is tested.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TIMEOUT_S = 90.0
TOKENS = 4
KEPT_BYTES = 2000
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n\r\n" + LAST_CHUNK
NOTICES = frozenset({"engine_failed", "poison_request"})


@dataclass
class Ledger:
    """What was sent and what came of it.

    `answered`: whole answers. `noticed`: broken, and the client was told: a stream by its error event, or 422.
    `lost`: everything else, each with what was seen.
    """

    sent: int = 0
    answered: int = 0
    noticed: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    @property
    def settled(self) -> int:
        """How many requests have come to an end."""
        return self.answered + self.noticed.total() + len(self.lost)

    def __str__(self) -> str:
        noticed = ", ".join(f"{count} {name}" for name, count in self.noticed.items()) or "0"
        return f"sent {self.sent}, answered {self.answered}, broken with notice {noticed}, lost {len(self.lost)}"


@dataclass(frozen=True)
class Answer:
    """The first and the last bytes of an answer that was read to the end of its connection."""

    first: bytes
    last: bytes

    @property
    def status(self) -> int:
        """The status code; 0: there was no answer."""
        return int(self.first.split(b" ", 2)[1]) if self.first.startswith(b"HTTP/1.1 ") else 0

    @property
    def code(self) -> str:
        """The code of the error that it ends with, or ""."""
        text = self.last.removesuffix(b"\r\n" + LAST_CHUNK).strip().rpartition(b"\n")[2].removeprefix(b"data: ")
        try:
            return str(json.loads(text)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return ""


async def ask(address: tuple[str, int], body: dict[str, object]) -> Answer:
    """Send one request and read all of its answer."""
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(*address)
    try:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(content) + content)
        first = last = b""
        while data := await reader.read(1 << 16):
            first = first if len(first) > KEPT_BYTES else first + data
            last = (last + data)[-KEPT_BYTES:]
        return Answer(first, last)
    finally:
        writer.close()


async def short(address: tuple[str, int], ledger: Ledger) -> None:
    """One short request, entered into the ledger."""
    await _enter(ledger, address, {"prompt": "The sea", "max_tokens": TOKENS, "ignore_eos": True}, whole=_is_whole)


async def stream(address: tuple[str, int], ledger: Ledger, *, tokens: int) -> None:
    """One stream, entered into the ledger."""
    body = {"prompt": "The sea", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    await _enter(ledger, address, body, whole=lambda answer: answer.last.endswith(DONE))


def _is_whole(answer: Answer) -> bool:
    return f'"completion_tokens":{TOKENS},'.encode() in answer.last


async def _enter(
    ledger: Ledger, address: tuple[str, int], body: dict[str, object], *, whole: Callable[[Answer], bool]
) -> None:
    ledger.sent += 1
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer = await ask(address, body)
    except (OSError, TimeoutError) as error:
        ledger.lost.append(repr(error))
        return
    if answer.status == 200 and whole(answer):
        ledger.answered += 1
    elif answer.code in NOTICES and (answer.status == 422 or answer.last.endswith(LAST_CHUNK)):
        ledger.noticed[answer.code] += 1
    else:
        ledger.lost.append(f"{answer.first[:200]!r} … {answer.last[-200:]!r}")


Request = Callable[[tuple[str, int], Ledger], Awaitable[None]]


class Load:
    """Requests without pause until told to stop; then those under way may finish."""

    def __init__(self, url: str) -> None:
        self.ledger = Ledger()
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def one_after_another(self, request: Request, *, clients: int) -> None:
        """So many clients, each of which sends its next request when it has got the answer to the last."""

        async def client() -> None:
            while not self._stop.is_set():
                await request(self._address, self.ledger)

        self._tasks += [asyncio.create_task(client()) for _ in range(clients)]

    def at_a_pace(self, request: Request, *, per_s: float) -> None:
        """So many requests a second, whatever becomes of those before."""

        async def sender() -> None:
            loop = asyncio.get_running_loop()
            began, count = loop.time(), 0
            under_way: set[asyncio.Future[None]] = set()
            while not self._stop.is_set():
                task = asyncio.ensure_future(request(self._address, self.ledger))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                count += 1
                await asyncio.sleep(max(0.0, began + count / per_s - loop.time()))
            await asyncio.gather(*under_way)

        self._tasks.append(asyncio.create_task(sender()))

    async def settled(self, more: int) -> None:
        """Wait until so many more requests have come to an end."""
        goal = self.ledger.settled + more
        async with asyncio.timeout(TIMEOUT_S):
            while self.ledger.settled < goal:
                await asyncio.sleep(0.01)

    async def finish(self) -> Ledger:
        """Send no more, and wait for what is under way."""
        self._stop.set()
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*self._tasks)
        return self.ledger
