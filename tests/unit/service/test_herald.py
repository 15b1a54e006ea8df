"""How it goes, as the service manager hears it."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.restart import Cause, Death
from runner_supervisor.core.states import State
from runner_supervisor.service.herald import Herald, News, Phase, assignments, engine_status
from runner_supervisor.service.manager import Manager

LOADING = News(Phase.STARTING, "loading")
READY = News(Phase.READY, "ready")
RELOADING = News(Phase.RELOADING, "reload: under way")
STOPPING = News(Phase.STOPPING, "stopping")
ALIVE, MORE_TIME = "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000"
OOM = Death(cause=Cause.OOM, detail="signal 9", at=0.0, was_ready=True)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (None, LOADING, [ALIVE, "STATUS=loading", MORE_TIME]),
        (LOADING, LOADING, [ALIVE, MORE_TIME]),
        (LOADING, READY, [ALIVE, "READY=1", "STATUS=ready"]),
        (READY, READY, [ALIVE]),
        (READY, replace(READY, status="restarting"), [ALIVE, "STATUS=restarting"]),
        (READY, RELOADING, [ALIVE, "RELOADING=1", "MONOTONIC_USEC=5", "STATUS=reload: under way", MORE_TIME]),
        (RELOADING, READY, [ALIVE, "READY=1", "STATUS=ready"]),
        (READY, STOPPING, [ALIVE, "STOPPING=1", "STATUS=stopping", MORE_TIME]),
    ],
)
def test_each_change_is_told_once_and_what_takes_long_asks_for_time(
    before: News | None, now: News, told: list[str]
) -> None:
    assert assignments(before, now, clock_us=5) == told


@pytest.mark.parametrize(
    ("machine", "status"),
    [
        (Machine(state=State.READY), "ready: qwen"),
        (Machine(state=State.LOADING, generation=1), "loading qwen: 1.0 of about 4.0 GiB"),
        (Machine(state=State.BACKOFF, last_death=OOM), "restarting: oom (signal 9)"),
        (
            Machine(state=State.LOADING, generation=2, last_death=OOM),
            "restarting: oom; loading qwen: 1.0 of about 4.0 GiB",
        ),
        (Machine(state=State.FAILED, last_death=OOM), "failed: oom (signal 9); requests get 503"),
        (Machine(state=State.STOPPING), "stopping: qwen"),
    ],
)
def test_an_engine_is_described_in_a_line(machine: Machine, status: str) -> None:
    assert engine_status(machine, model="qwen", held_bytes=2**30, needed_bytes=2**32) == status


@pytest.mark.anyio
async def test_the_loop_itself_gives_the_signs_of_life(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(short_dir / "notify"))
        door.setblocking(False)
        loop = asyncio.get_running_loop()
        news = [LOADING]
        herald = Herald(Manager(str(short_dir / "notify"), watchdog_s=0.03), lambda: news[0])
        running = asyncio.create_task(herald.run())
        async with asyncio.timeout(10):
            assert await loop.sock_recv(door, 4096) == "\n".join([ALIVE, "STATUS=loading", MORE_TIME]).encode()
            assert await loop.sock_recv(door, 4096) == "\n".join([ALIVE, MORE_TIME]).encode()
            news[0] = READY
            herald.look()
            while b"READY=1" not in (heard := await loop.sock_recv(door, 4096)):
                continue
            assert heard == "\n".join([ALIVE, "READY=1", "STATUS=ready"]).encode()
        running.cancel()
        await asyncio.wait({running})


@pytest.mark.anyio
async def test_what_was_not_heard_is_told_again(short_dir: Path) -> None:
    heard: list[News] = []

    def look() -> News:
        heard.append(READY)
        return READY

    herald = Herald(Manager(str(short_dir / "notify"), watchdog_s=0.03), look)
    running = asyncio.create_task(herald.run())
    async with asyncio.timeout(10):
        while not heard:
            await asyncio.sleep(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.bind(str(short_dir / "notify"))
            door.setblocking(False)
            assert b"READY=1" in await asyncio.get_running_loop().sock_recv(door, 4096)
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.anyio
async def test_without_a_manager_it_waits_to_be_cancelled() -> None:
    looked = asyncio.Event()

    def look() -> News:
        looked.set()
        return READY

    running = asyncio.create_task(Herald(Manager(), look).run())
    async with asyncio.timeout(10):
        await looked.wait()
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
