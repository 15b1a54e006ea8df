"""The events that `status --watch` follows, over the control socket of a front before a scripted engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from tests.component.front_rig import DEADLINE_S, rig

from runner_supervisor.core.states import State
from runner_supervisor.errors import RunnerError
from runner_supervisor.front.pages.pulse import MOST_WATCHERS
from runner_supervisor.layout import Layout
from runner_supervisor.remote import Event, Remote

pytestmark = pytest.mark.anyio


async def test_events_are_heard_over_the_control_socket_until_the_service_ends(short_dir: Path) -> None:
    layout = Layout(short_dir)
    layout.create()
    heard: list[Event] = []
    async with rig(layout.run_dir) as here:
        listening = asyncio.create_task(asyncio.to_thread(lambda: heard.extend(Remote(layout).events())))
        while not here.front._pulse._watchers:
            await asyncio.sleep(0.01)
        here.change(State.LOADING)
        async with asyncio.timeout(DEADLINE_S):
            while not any(each.name == "now" and each.data["engine"]["state"] == "loading" for each in heard):
                await asyncio.sleep(0.01)
        here.front.close()
        await listening
    assert heard[0].name == "hello"


async def test_who_comes_when_all_places_are_taken_is_told_so(short_dir: Path) -> None:
    layout = Layout(short_dir)
    layout.create()
    async with rig(layout.run_dir) as here:
        watchers = [
            here.front._pulse.follow(may_act=False, last_id="", good=lambda: True) for _ in range(MOST_WATCHERS)
        ]
        for watcher in watchers:
            await anext(watcher)
        with pytest.raises(RunnerError, match=r"refuses: .*pages"):
            await asyncio.to_thread(lambda: list(Remote(layout).events()))
        for watcher in watchers:
            await cast("Any", watcher).aclose()
