"""The status page's events and buttons, and how pages are served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from tests.component.crash_rig import CHUNK, PATH, STREAM, asked, begin_a_stream, error, never, post, queued
from tests.component.front_rig import Rig, request, rig, say_hi

from runner_supervisor.core.states import State
from runner_supervisor.front.audit import AuditLog, Entry
from runner_supervisor.front.pages.pulse import MOST_WATCHERS, Pulse

pytestmark = pytest.mark.anyio

EVENTS = request(method="GET", path="/admin/events", close=False)


def pulse_of(here: Rig) -> Pulse:
    return here.front._pulse


def parsed(event: bytes) -> tuple[str, str, Any]:
    """An event's name, id and data."""
    lines = dict(line.split(": ", 1) for line in event.decode().strip().split("\n"))
    return lines["event"], lines["id"], json.loads(lines["data"])


async def look(here: Rig) -> Any:
    """The snapshot of this moment."""
    following = pulse_of(here).follow(may_act=True, last_id="", good=lambda: True)
    try:
        await anext(following)
        return parsed(await anext(following))[2]
    finally:
        await cast("Any", following).aclose()


async def operate(here: Rig, path: str) -> bytes:
    """POST over the control socket, as `runner-supervisor` does."""
    reader, writer = await asyncio.open_unix_connection(here.control)
    try:
        writer.write(request(path=path))
        return await reader.read()
    finally:
        writer.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def named(name: str, path: str = PATH) -> bytes:
    return request(path=path, body=b"{}", headers=f"x-request-id: {name}\r\n")


class Written:
    """Stands in for the audit log. `write_down`: has what has ended so far written."""

    def __init__(self, write_down: Callable[[], None]) -> None:
        self.entries: list[Entry] = []
        self._write_down = write_down

    def record(self, entry: Entry) -> None:
        self.entries.append(entry)

    def outcome(self, name: str) -> str:
        self._write_down()
        return next(entry.outcome for entry in self.entries if entry.request_id == name.encode())


def listen(here: Rig) -> Written:
    written = Written(here.front.desk.ledger.write_down)
    here.front.desk.audit = cast("AuditLog", written)
    return written


# Pages.


@pytest.mark.parametrize("path", ["/dashboard", "/playground", "/dashboard/base.css", "/dashboard/uPlot.iife.min.js"])
async def test_pages_are_served_without_a_key_under_a_strict_policy(short_dir: Path, path: str) -> None:
    async with rig(short_dir, keys=["secret"]) as here:
        answer = await here.ask(request(method="GET", path=path))
    head = answer.partition(b"\r\n\r\n")[0]
    assert status(answer) == 200
    assert head.count(b"content-security-policy: ") == head.count(b"cache-control: ") == 1
    assert b"script-src 'self'" in head
    assert b"unsafe" not in head
    assert b"x-content-type-options: nosniff" in head


async def test_a_page_that_the_browser_has_is_not_sent_again(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        whole = await here.ask(request(method="GET", path="/dashboard"))
        etag = whole.partition(b"etag: ")[2].partition(b"\r\n")[0].decode()
        again = await here.ask(request(method="GET", path="/dashboard", headers=f"if-none-match: {etag}\r\n"))
    assert status(again) == 304
    assert again.endswith(b"\r\n\r\n")


async def test_there_is_no_other_file_below_the_dashboard(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        for path in ("/dashboard/files.py", "/dashboard/..%2ffiles.py", "/dashboard/LICENSE"):
            assert status(await here.ask(request(method="GET", path=path))) == 404


@pytest.mark.parametrize(("page", "place"), [(b"200 OK", b"/index.html"), (b"404 Not Found", b"/playground")])
async def test_the_front_door_leads_to_the_engines_own_page_if_it_has_one(
    short_dir: Path, page: bytes, place: bytes
) -> None:
    async def answer(asked: Any) -> None:
        asked.writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % page)

    async with rig(short_dir, answer) as here:
        assert b"location: " + place + b"\r\n" in await here.ask(request(method="GET", path="/"))


async def test_the_front_door_leads_to_our_page_while_there_is_no_engine(short_dir: Path) -> None:
    async with rig(short_dir, say_hi) as here:
        here.change(State.LOADING)
        assert b"location: /playground\r\n" in await here.ask(request(method="GET", path="/"))


# Events.


@asynccontextmanager
async def watching(here: Rig, *, may_act: bool = True, last_id: str = "") -> AsyncIterator[AsyncIterator[bytes]]:
    following = pulse_of(here).follow(may_act=may_act, last_id=last_id, good=lambda: True)
    try:
        yield following
    finally:
        await cast("Any", following).aclose()


async def test_a_page_is_greeted_with_the_past_and_then_told_the_present(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        pulse_of(here).beat()
        pulse_of(here).beat()
        writer.write(EVENTS)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head
        assert b"cache-control: no-store" in head
        await reader.readuntil(b"\r\n")  # the chunk's length
        name, _, greeting = parsed(await reader.readuntil(b"\n\n"))
        assert name == "hello"
        assert not greeting["may_act"]
        assert len(greeting["history"][0]) >= 2
        await reader.readuntil(b"event: now\n")
        snapshot = json.loads((await reader.readuntil(b"\n\n")).partition(b"data: ")[2])
        assert snapshot["engine"]["state"] == "ready"
        assert snapshot["slots"] == 100


async def test_the_control_socket_may_act(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        reader, writer = await asyncio.open_unix_connection(here.control)
        writer.write(EVENTS)
        assert b'"may_act":true' in await reader.readuntil(b"\n\n")
        writer.close()


async def test_events_end_when_the_service_does(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(EVENTS)
        await reader.readuntil(b"event: now\n")
        here.front.close()
        await reader.readuntil(b"\r\n0\r\n\r\n")


async def test_a_page_that_does_not_read_misses_seconds_and_is_owed_no_more_than_one(short_dir: Path) -> None:
    async with rig(short_dir) as here, watching(here) as following:
        await anext(following)
        await anext(following)
        tail = pulse_of(here)._tail
        for _ in range(3000):
            tail.hear("0.00.001.717 I working")
            pulse_of(here).beat()
        name, identity, lines = parsed(await anext(following))
        assert name == "log"
        assert len(lines) == 1000
        assert identity.endswith(f"-{lines[-1]['number']}")
        name, _, snapshot = parsed(await anext(following))
        assert name == "now"
        assert snapshot["sample"][0] == pulse_of(here)._sample.at


async def test_a_page_that_comes_back_gets_the_lines_that_it_missed(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        pulse_of(here)._tail.hear("0.00.001.717 I one")
        async with watching(here) as following:
            ids = [parsed(await anext(following))[1] for _ in range(3)]
        pulse_of(here)._tail.hear("0.00.001.717 I two")
        for last_id, missed in (("", ["one", "two"]), (ids[0], ["one", "two"]), (ids[1], ["two"]), (ids[2], ["two"]),
                                ("other-run-1", ["one", "two"])):  # fmt: skip
            async with watching(here, last_id=last_id) as following:
                _, _, lines = [parsed(await anext(following)) for _ in range(2)][-1]
                assert [line["text"] for line in lines] == missed


async def test_who_watches_has_to_ask_again_when_keys_change(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(EVENTS)
        await reader.readuntil(b"event: now")
        here.keys.give(["a-key"])
        pulse_of(here).beat()
        await reader.readuntil(b"\r\n0\r\n\r\n")


async def test_a_page_that_leaves_is_let_go_although_a_request_waits_behind_it(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        async with here.connect() as (reader, writer):
            writer.write(EVENTS + request(close=False))
            await reader.readuntil(b"event: now")
            assert pulse_of(here)._watchers == 1
        while pulse_of(here)._watchers:
            await asyncio.sleep(0)


async def test_pages_that_come_all_at_once_are_no_more_than_may_watch(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        come = [pulse_of(here).follow(may_act=False, last_id="", good=lambda: True) for _ in range(MOST_WATCHERS + 5)]
        greeted = [await anext(watcher, None) for watcher in come]
        assert sum(greeting is not None for greeting in greeted) == MOST_WATCHERS
        for watcher in come:
            await cast("Any", watcher).aclose()


async def test_so_many_pages_may_watch_and_no_more(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        watchers = [pulse_of(here).follow(may_act=False, last_id="", good=lambda: True) for _ in range(MOST_WATCHERS)]
        for watcher in watchers:
            await anext(watcher)
        answer = await here.ask(request(method="GET", path="/admin/events"))
        assert status(answer) == 503
        assert error(answer)["code"] == "too_many_watchers"
        for watcher in watchers:
            await cast("Any", watcher).aclose()
        async with watching(here) as following:
            assert parsed(await anext(following))[0] == "hello"


async def test_requests_are_shown_with_how_far_they_are(short_dir: Path) -> None:
    async with rig(short_dir, never, slots=2) as here:
        waiting = []
        for count, name in enumerate(("one", "two"), start=1):
            waiting.append(asyncio.create_task(here.ask(named(name))))
            await asked(here, count)
        waiting.append(asyncio.create_task(here.ask(named("three"))))
        await queued(here, 1)
        here.engine.asked[0].writer.write(STREAM + CHUNK)
        while here.front.backend.upstream().received == 0:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        snapshot = await look(here)
        phases = {each["id"]: (each["phase"], each["tokens"]) for each in snapshot["requests"]}
        assert phases == {"one": ("streaming", 1), "two": ("prefill", 0), "three": ("queued", 0)}
        assert snapshot["slots_busy"] == 2
        assert {each["route"] for each in snapshot["requests"]} == {PATH}
        for task in waiting:
            task.cancel()


async def test_tokens_are_counted_once_while_they_stream_and_at_their_end(short_dir: Path) -> None:
    async with rig(short_dir, begin_a_stream) as here:
        asking = asyncio.create_task(here.ask(named("one")))
        await asked(here, 1)
        while here.front.backend.upstream().received == 0:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        pulse = pulse_of(here)
        pulse.beat()
        assert pulse._meter._tokens == 1
        assert pulse._sample.ttft_p50_ms is not None
        here.engine.asked[0].writer.write(CHUNK + b"0\r\n\r\n")
        await asking_done(here)
        pulse.beat()
        assert pulse._meter._tokens == 2
        assert pulse._sample.in_flight == 0
        asking.cancel()


async def asking_done(here: Rig) -> None:
    while here.front.backend.relays:
        await asyncio.sleep(0)


async def test_deaths_and_their_end_are_shown_newest_first(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        for detail in ("signal 9", "signal 11"):
            here.change(State.BACKOFF, detail=detail)
            here.change(State.READY, detail=detail)
        happenings = (await look(here))["happenings"]
        assert [each["detail"].split()[-2] for each in happenings] == ["11", "9"]
        assert all(each["back_after_s"] is not None for each in happenings)


# Cancelling.


async def test_a_stream_that_is_cancelled_ends_with_an_error_event_and_frees_its_slot(short_dir: Path) -> None:
    async with rig(short_dir, begin_a_stream, slots=1) as here:
        written = listen(here)
        asking = asyncio.create_task(here.ask(named("one")))
        await asked(here, 1)
        while here.front.backend.upstream().received == 0:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        assert b'{"cancelled":1}' in await operate(here, "/admin/requests/one/cancel")
        answer = await asking
        await here.engine.asked[0].left()
        assert here.front.queue.working == 0
    event = answer.partition(CHUNK)[2]
    assert b'"code":"cancelled"' in event
    assert event.endswith(b"\n\n\r\n0\r\n\r\n")
    assert written.outcome("one") == "cancelled"


async def test_requests_without_an_answer_so_far_get_one_that_says_they_were_cancelled(short_dir: Path) -> None:
    async with rig(short_dir, never, slots=1) as here:
        written = listen(here)
        working = asyncio.create_task(here.ask(named("working")))
        await asked(here, 1)
        waiting = asyncio.create_task(here.ask(named("waiting")))
        await queued(here, 1)
        for name, asking in (("waiting", waiting), ("working", working)):
            await operate(here, f"/admin/requests/{name}/cancel")
            answer = await asking
            assert status(answer) == 410
            assert error(answer)["code"] == "cancelled"
            assert written.outcome(name) == "cancelled"
        await here.engine.asked[0].left()
        assert here.front.queue.working == here.front.queue.queued == 0


async def test_an_answer_that_is_no_stream_is_cut_off(short_dir: Path) -> None:
    async def half(asked: Any) -> None:
        asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await never(asked)

    async with rig(short_dir, half) as here:
        asking = asyncio.create_task(here.ask(named("one")))
        await asked(here, 1)
        while here.front.backend.upstream().received == 0:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        await operate(here, "/admin/requests/one/cancel")
        assert (await asking).endswith(b"half")


async def test_a_request_that_is_not_at_work_cannot_be_cancelled(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        answer = await operate(here, "/admin/requests/none/cancel")
        assert status(answer) == 404
        assert error(answer)["code"] == "no_such_request"


async def test_cancelling_is_for_administrators(short_dir: Path) -> None:
    async with rig(short_dir, never) as here, here.connect() as (_, writer):
        writer.write(post(close=False))
        await asked(here, 1)
        answer = await here.ask(request(path="/admin/requests/r1/cancel"))
        assert status(answer) == 403
        assert len((await look(here))["requests"]) == 1
