"""Requests whose engine dies: what tests of them share."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.component.front_rig import CHUNKED, OK, Asked, Rig, request

PATH = "/v1/completions"
STREAM = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n")
EVENT = b'data: {"content":"The"}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
MESSAGE = "The model server ended (signal 11) before the answer was complete."


async def never(asked: Asked) -> None:
    """Work until the end."""
    await asked.left()


async def begin_a_stream(asked: Asked) -> None:
    asked.writer.write(STREAM + CHUNK)
    await never(asked)


def finish(asked: Asked) -> None:
    """Answer what `never` would not."""
    asked.writer.write(OK.replace(b"Keep-Alive: timeout=5, max=100", b"Connection: close"))


async def asked(here: Rig, count: int) -> None:
    """Wait until so many requests have reached engines."""
    while len(here.engine.asked) != count:
        await asyncio.sleep(0)


async def queued(here: Rig, count: int) -> None:
    while here.front.queue.queued != count:
        await asyncio.sleep(0)


def post(path: str = PATH, *, close: bool = True) -> bytes:
    return request(path=path, body=b"{}", close=close)


def error(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def count(here: Rig, name: str, path: str = PATH) -> bool:
    """Whether one such request was counted."""
    return f'runner_requests_{name}_total{{path="{path}"}} 1.0'.encode() in b"".join(here.front.metrics.pieces())


async def crash_at_work(here: Rig, client: asyncio.StreamWriter, *details: str) -> None:
    """Send a request, and let one engine after the other die of it."""
    client.write(post(close=False))
    before = len(here.engine.asked)
    for number, detail in enumerate(details, start=1):
        await asked(here, before + number)
        here.crash(detail=detail)
        if number < len(details):
            await queued(here, 1)
            await here.come_back()
