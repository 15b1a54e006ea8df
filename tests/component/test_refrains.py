"""Heads that come again are recognised, whatever pieces they come in, and mean what they meant before."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from tests.component.front_rig import Asked, rig

from runner_supervisor.front.heads import Heads, Reading
from runner_supervisor.front.requestids import RequestIds

pytestmark = pytest.mark.anyio


def post(body: bytes, *, path: str = "/v1/completions", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


async def echo(asked: Asked) -> None:
    """Answer with the request's path and body."""
    body = asked.head.split()[1] + b" " + asked.body
    asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: x/y\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await asked.writer.drain()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """One answer's body; its status when that is no 200."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length
    body = await asyncio.wait_for(reader.readexactly(int(length[1])), 10)
    return body if head.startswith(b"HTTP/1.1 200") else head.split()[1]


BODIES = [b'{"a":1}', b'{"a":12345}', b"{}", b'{"long":"' + b"x" * 700 + b'"}']


async def test_bodies_of_any_length_arrive_whole(short_dir: Path) -> None:
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        for body in BODIES * 3:
            writer.write(post(body))
            assert await answer(reader) == b"/v1/completions " + body


@pytest.mark.parametrize("cut", [1, 20, len(post(b'{"a":1}')) - 7, len(post(b'{"a":1}')) - 3])
async def test_a_request_may_come_in_pieces(short_dir: Path, cut: int) -> None:
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        for body in BODIES:
            message = post(body)
            writer.write(message[:cut])
            await asyncio.sleep(0.01)  # so that the rest comes in a read of its own
            writer.write(message[cut:])
            assert await answer(reader) == b"/v1/completions " + body


async def test_what_follows_in_the_same_read_is_the_next_request(short_dir: Path) -> None:
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        writer.write(post(b"{}"))
        await answer(reader)
        writer.write(post(b'{"a":1}') + post(b"{}", path="/tokenize") + post(b'{"b":2}'))
        assert [await answer(reader) for _ in range(3)] == [
            b'/v1/completions {"a":1}',
            b"/tokenize {}",
            b'/v1/completions {"b":2}',
        ]


async def test_another_head_on_the_same_connection_is_read_anew(short_dir: Path) -> None:
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        for path in ("/v1/completions", "/tokenize", "/v1/completions", "/tokenize"):
            writer.write(post(b"{}", path=path))
            assert await answer(reader) == path.encode() + b" {}"


async def test_a_body_that_is_no_json_is_refused_and_the_connection_goes_on(short_dir: Path) -> None:
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        for body, expected in ((b"{}", b"/v1/completions {}"), (b"nope", b"400"), (b"{}", b"/v1/completions {}")):
            writer.write(post(body))
            assert await answer(reader) == expected


async def test_a_body_that_is_too_long_is_refused_although_the_head_is_known(short_dir: Path) -> None:
    async with rig(short_dir, echo, max_body_bytes=1000) as here, here.connect() as (reader, writer):
        writer.write(post(b"{}"))
        await answer(reader)
        writer.write(post(b"x" * 1001))
        assert await answer(reader) == b"413"
        writer.write(post(b"x" * 1001)[:-500])
        assert await answer(reader) == b"413"
        writer.write(b"x" * 500)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_head_means_something_else_once_a_key_is_needed(short_dir: Path) -> None:
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        writer.write(post(b"{}"))
        assert await answer(reader) == b"/v1/completions {}"
        here.keys.give(["a-key"])
        writer.write(post(b"{}"))
        assert await answer(reader) == b"401"


async def test_a_request_keeps_the_id_that_its_head_has(short_dir: Path) -> None:
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        for _ in range(3):
            writer.write(post(b"{}", more="X-Request-Id: mine\r\n"))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert b"\r\nx-request-id: mine\r\n" in head
            await reader.readexactly(len(b"/v1/completions {}"))


async def test_each_request_without_an_id_gets_one_of_its_own(short_dir: Path) -> None:
    ids = set()
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        here.front.desk.ids = RequestIds()
        for _ in range(3):
            writer.write(post(b"{}"))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            ids.add(re.search(rb"x-request-id: (\S+)", head)[1])  # type: ignore[index]
            await reader.readexactly(len(b"/v1/completions {}"))
    assert len(ids) == 3


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The targets of the heads that were parsed."""
    targets: list[bytes] = []
    read = Heads.read

    def noted(self: Heads, parser: Any, url: bytes, headers: Any, *, trusted: bool) -> Reading:
        targets.append(url)
        return read(self, parser, url, headers, trusted=trusted)

    monkeypatch.setattr(Heads, "read", noted)
    return targets


async def test_other_connections_know_a_head_too(short_dir: Path, parsed: list[bytes]) -> None:
    async with rig(short_dir, echo) as here:
        for body in BODIES:
            async with here.connect() as (reader, writer):
                for _ in range(2):
                    writer.write(post(body))
                    assert await answer(reader) == b"/v1/completions " + body
    assert parsed == [b"/v1/completions"]


async def test_two_heads_in_turn_are_both_known(short_dir: Path, parsed: list[bytes]) -> None:
    async with rig(short_dir, echo) as here, here.connect() as (reader, writer):
        for path in ("/v1/completions", "/tokenize") * 3:
            writer.write(post(b"{}", path=path))
            assert await answer(reader) == path.encode() + b" {}"
    assert parsed == [b"/v1/completions", b"/tokenize"]


async def test_an_id_that_one_connection_gave_is_not_anothers(short_dir: Path, parsed: list[bytes]) -> None:
    ids = []
    async with rig(short_dir, echo) as here:
        for more in ("X-Request-Id: mine\r\n", "", "X-Request-Id: mine\r\n"):
            async with here.connect() as (reader, writer):
                writer.write(post(b"{}", more=more))
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                ids.append(re.search(rb"x-request-id: (\S+)", head)[1])  # type: ignore[index]
    assert ids[0] == ids[2] == b"mine"
    assert ids[1] != b"mine"
    assert len(parsed) == 3


async def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_behind(short_dir: Path) -> None:
    async with rig(short_dir, echo) as here:
        async with here.connect() as (reader, writer):
            writer.write(post(b"{}"))
            await answer(reader)
            writer.write(post(b"x" * 900)[:-10])
            while not here.front.backend.buffered_bytes:
                await asyncio.sleep(0)
        while here.front.backend.buffered_bytes:
            await asyncio.sleep(0)
    assert len(here.engine.asked) == 1
