"""What clients should not send, and what becomes of it: refused here, never the engine's trouble."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.component.front_rig import CHUNKED, Asked, counted, request, rig

pytestmark = pytest.mark.anyio


async def test_thousands_of_pipelined_refusals_do_no_harm(short_dir: Path) -> None:
    async with rig(short_dir, keys=["secret"]) as here:
        answer = await here.ask(request(close=False) * 3000 + request())
    assert answer.count(b"HTTP/1.1 401 ") == 3001


async def test_an_over_long_body_is_refused_before_it_is_sent(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        answer = await here.ask(
            b"POST /x HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n"
        )
        assert not here.engine.asked
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


async def test_an_over_long_chunked_body_is_refused_when_it_grows_too_long(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        answer = await here.ask(
            b"POST /x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"200\r\n%b\r\n" % bytes(0x200) * 3
        )
        assert not here.engine.asked
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_what_is_not_http_gets_400_and_never_reaches_the_engine(short_dir: Path) -> None:
    shapes = [
        b"not http at all\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ]
    async with rig(short_dir) as here:
        for shape in shapes:
            answer = await here.ask(shape)
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), shape
            assert b'"type": "invalid_request_error"' in answer
        assert not here.engine.asked


@pytest.mark.parametrize("target", [b"http://", b"http://host:99999999/", b"*"])
async def test_a_target_that_is_none_is_refused_without_a_traceback(
    short_dir: Path, caplog: pytest.LogCaptureFixture, target: bytes
) -> None:
    async with rig(short_dir) as here:
        answer = await here.ask(b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % target)
    assert answer[:13] in {b"HTTP/1.1 400 ", b"HTTP/1.1 421 "}
    assert "Traceback" not in caplog.text


async def test_a_connect_is_refused(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        answer = await here.ask(b"CONNECT host:443 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert not here.engine.asked
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_head_without_end_is_refused(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"x-header: " + b"y" * 1000 + b"\r\n")
                await writer.drain()
        answer = await reader.readuntil(b"\r\n")
        assert not here.engine.asked
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (b"POST /x HTTP/1.1\r\nhost", b"HTTP/1.1 408 "),
        (b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc", b"HTTP/1.1 408 "),
        (b"", b""),
    ],
)
async def test_a_client_that_stops_in_the_middle_of_a_request_is_dropped(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes, status: bytes
) -> None:
    monkeypatch.setattr("runner_supervisor.front.protocol.PATIENCE_S", 0.05)
    async with rig(short_dir) as here:
        assert (await here.ask(begun)).startswith(status)
        assert not here.engine.asked


async def test_a_fault_at_one_silent_connection_ends_no_other_one(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_connection: object) -> None:
        raise ValueError("at this one")

    monkeypatch.setattr("runner_supervisor.front.server.TICK_S", 0.01)
    monkeypatch.setattr("runner_supervisor.front.protocol.FrontProtocol.look_at_the_clock", fail)
    async with rig(short_dir) as here, here.connect():
        async with asyncio.timeout(10):
            while "a silent connection could not be ended" not in caplog.text:
                await asyncio.sleep(0.005)
        assert (await here.ask(request())).startswith(b"HTTP/1.1 200 ")


async def test_trailers_do_not_become_headers(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        await here.ask(
            b"POST /x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nx-evil: 1\r\n\r\n"
        )
        assert b"x-evil" not in here.engine.asked[0].head


async def test_a_page_from_elsewhere_may_not_use_an_open_address(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        foreign = await here.ask(request(headers="Origin: https://evil.example\r\n"))
        assert not here.engine.asked
        own = await here.ask(request(headers="Origin: http://localhost:3000\r\n"))
    assert foreign.startswith(b"HTTP/1.1 403 ")
    assert own.startswith(b"HTTP/1.1 200 ")


async def test_an_upgrade_is_not_taken_up_and_not_complained_of(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(b"GET /x HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nhi")
        assert b"upgrade" not in here.engine.asked[0].head
    assert caplog.text == ""


async def test_a_fault_of_our_own_is_500_and_logged(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("planted")

    async with rig(short_dir) as here:
        monkeypatch.setattr("runner_supervisor.front.gate.Gate.judge", fail)
        answer = await here.ask(request())
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "planted" in caplog.text


async def test_garbage_behind_a_running_answer_is_not_answered_in_its_middle(short_dir: Path) -> None:
    async def hang(asked: Asked) -> None:
        asked.writer.write(CHUNKED + b"5\r\nhello\r\n")
        await asked.left()

    async with rig(short_dir, hang) as here, here.connect() as (reader, writer):
        writer.write(request(close=False))
        began = await reader.readuntil(b"hello\r\n")
        writer.write(b"garbage\r\n\r\n")
        rest = await reader.read()
    assert began.startswith(b"HTTP/1.1 200")
    assert rest == b""


async def test_a_client_that_reads_no_refusals_is_read_no_further(short_dir: Path) -> None:
    async with rig(short_dir, keys=["secret"]) as here, here.connect() as (_, writer):
        flood = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1_200_000
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(flood)
        waiting, before = writer.transport.get_write_buffer_size(), -1
        while waiting != before:  # until no more of it is taken
            before = waiting
            for _ in range(200):
                await asyncio.sleep(0.001)
            waiting = writer.transport.get_write_buffer_size()
        (connection,) = here.front._server.server_state.connections
        held = connection.transport.get_write_buffer_size()
        writer.transport.abort()
    assert waiting
    assert held < 64 << 20  # what of it was read before the first pause; all its answers were 400 MB


async def test_an_origin_that_is_no_url_is_foreign(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        assert b" 403 " in await here.ask(request(headers="Origin: http://[::1\r\n"))


@pytest.mark.parametrize("line", ["X: " + "x" * 8100, "\r\n".join(f"X{n}: {'x' * 4000}" for n in range(17))])
async def test_a_head_that_the_engine_would_not_read_is_refused(short_dir: Path, line: str) -> None:
    async with rig(short_dir) as here:
        assert (await here.ask(request(headers=line + "\r\n"))).startswith(b"HTTP/1.1 431 ")
        assert not here.engine.asked


async def test_what_is_no_http_is_answered_and_counted_once_however_much_there_is_of_it(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(b"\x00\r\n\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x00\r\n\r\n")
        answer += await reader.read()
        assert answer.count(b"HTTP/1.1 400 ") == 1
        assert counted(here, "refused") == 1


async def test_a_body_behind_a_head_that_was_refused_is_not_held(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(request(close=False))
        await reader.readuntil(b"hi")
        writer.write(b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\nx: " + b"x" * (1 << 17))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\r\n\r\n" + b"b" * 900)
        await reader.read()
        assert here.front.backend.buffered_bytes == 0


async def test_what_comes_after_a_head_that_was_refused_is_passed_over(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        answer = await here.ask(request(headers="X: " + "x" * (1 << 20) + "\r\n", body=b"hello"))
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert answer.count(b"HTTP/1.1 ") == 1
