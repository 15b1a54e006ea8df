"""Clients that put a service under load, and a ledger of what became of each request."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

TIMEOUT_S = 90.0
TOKENS = 4


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


async def short(client: httpx.AsyncClient, ledger: Ledger) -> None:
    """One short request, entered into the ledger."""
    ledger.sent += 1
    body = {"prompt": "The sea", "max_tokens": TOKENS}
    try:
        answer = await client.post("/v1/completions", json=body)
    except httpx.HTTPError as error:
        ledger.lost.append(f"short: {error!r}")
        return
    if answer.status_code == 422 and answer.json()["error"]["code"] == "poison_request":
        ledger.noticed["poison_request"] += 1
    elif answer.status_code != 200:
        ledger.lost.append(f"short: {answer.status_code} {answer.text}")
    elif answer.json()["usage"]["completion_tokens"] != TOKENS:
        ledger.lost.append(f"short: {answer.text}")
    else:
        ledger.answered += 1


async def stream(client: httpx.AsyncClient, ledger: Ledger, *, tokens: int) -> None:
    """One stream, entered into the ledger."""
    ledger.sent += 1
    body = {"prompt": "The sea", "max_tokens": tokens, "stream": True}
    last = ""
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                last = answer.text
            async for line in answer.aiter_lines():
                last = line or last
    except httpx.HTTPError as error:
        ledger.lost.append(f"stream: {error!r} after {last[:200]}")
        return
    if last == "data: [DONE]":
        ledger.answered += 1
        return
    try:
        code = json.loads(last.removeprefix("data: "))["error"]["code"]
    except (ValueError, KeyError, TypeError):
        ledger.lost.append(f"stream: ended with {last[:200]}")
        return
    if code in {"engine_failed", "poison_request"}:
        ledger.noticed[code] += 1
    else:
        ledger.lost.append(f"stream: {last[:200]}")


Request = Callable[[httpx.AsyncClient, Ledger], Awaitable[None]]


class Load:
    """Requests without pause until told to stop; then those under way may finish."""

    def __init__(self, url: str) -> None:
        self.ledger = Ledger()
        self._client = httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=1000), trust_env=False
        )
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def one_after_another(self, request: Request, *, clients: int) -> None:
        """So many clients, each of which sends its next request when it has got the answer to the last."""

        async def client() -> None:
            while not self._stop.is_set():
                await request(self._client, self.ledger)

        self._tasks += [asyncio.create_task(client()) for _ in range(clients)]

    def at_a_pace(self, request: Request, *, per_s: float) -> None:
        """So many requests a second, whatever becomes of those before."""

        async def sender() -> None:
            loop = asyncio.get_running_loop()
            began, count = loop.time(), 0
            under_way: set[asyncio.Task[None]] = set()
            while not self._stop.is_set():
                task = asyncio.ensure_future(request(self._client, self.ledger))
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
        await self._client.aclose()
        return self.ledger
