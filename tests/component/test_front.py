"""The front on real sockets, before an engine that answers with whatever bytes a test gives it."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path

import pytest
from tests.component.front_rig import CHUNKED, DEADLINE_S, OK, Answer, Asked, counted, request, rig, say_hi, with_id

from runner_supervisor.core.states import State
from runner_supervisor.front.relay import Relay
from runner_supervisor.front.visit import Visit

pytestmark = pytest.mark.anyio

PIECE = bytes(65536)


async def test_body_and_head_pass_without_what_belongs_to_one_connection(short_dir: Path) -> None:
    headers = "Accept: */*\r\nX-Mine: 1\r\nConnection: x-hop\r\nX-Hop: 2\r\nTE: trailers\r\n"
    async with rig(short_dir) as here:
        answer = await here.ask(request(path="/a%20b?q=1", body=b"body", headers=headers))
        asked = here.engine.asked[0]
    assert answer == (
        b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Length: 2\r\nx-request-id: r1\r\n"
        b"connection: close\r\n\r\nhi"
    )
    assert asked.head == (
        b"POST /a%20b?q=1 HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\nx-mine: 1\r\ncontent-length: 4\r\n\r\n"
    )
    assert asked.body == b"body"


async def test_headers_that_isolate_a_page_pass(short_dir: Path) -> None:
    isolating = b"Cross-Origin-Embedder-Policy: require-corp\r\nCross-Origin-Opener-Policy: same-origin\r\n"

    async def page(asked: Asked) -> None:
        asked.writer.write(b"HTTP/1.1 200 OK\r\n" + isolating + b"Content-Length: 2\r\n\r\nhi")

    async with rig(short_dir, page) as here:
        assert isolating in await here.ask(request(method="GET", path="/index.html"))


async def test_keys_are_checked_here_and_stay_here(short_dir: Path) -> None:
    async with rig(short_dir, keys=["secret"]) as here:
        refused = await here.ask(request())
        for header in ("Authorization: Bearer secret\r\n", "authorization: secret\r\n", "X-Api-Key: secret\r\n"):
            assert (await here.ask(request(headers=header))).endswith(b"hi")
        assert all(b"secret" not in asked.head for asked in here.engine.asked)
        assert len(here.engine.asked) == 3
    assert refused.startswith(b"HTTP/1.1 401 Unauthorized\r\n")


async def test_the_control_socket_needs_no_key(short_dir: Path) -> None:
    async with rig(short_dir, keys=["secret"]) as here:
        reader, writer = await asyncio.open_unix_connection(here.control)
        writer.write(request(method="GET", path="/metrics"))
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (short_dir / "control.sock").stat().st_mode & 0o777 == 0o600


async def test_a_chunked_request_body_arrives_whole_with_its_length(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        await here.ask(
            b"POST /x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        asked = here.engine.asked[0]
    assert asked.body == b"abcde"
    assert b"transfer-encoding" not in asked.head


async def test_answers_come_as_the_engine_writes_them(short_dir: Path) -> None:
    proceed = asyncio.Event()

    async def in_two(asked: Asked) -> None:
        asked.writer.write(CHUNKED + b"3\r\none\r\n")
        await proceed.wait()
        asked.writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with rig(short_dir, in_two) as here, here.connect() as (reader, writer):
        writer.write(request(close=False))
        assert await reader.readuntil(b"one\r\n") == with_id(CHUNKED) + b"3\r\none\r\n"
        proceed.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_a_head_that_comes_in_pieces_is_put_together(short_dir: Path) -> None:
    async def byte_by_byte(asked: Asked) -> None:
        for byte in OK:
            asked.writer.write(bytes([byte]))
            await asked.writer.drain()
            await asyncio.sleep(0)

    async with rig(short_dir, byte_by_byte) as here:
        assert (await here.ask(request())).endswith(b"\r\n\r\nhi")


async def test_connections_are_kept_on_both_sides(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        for _ in range(120):
            writer.write(request(close=False))
            await reader.readuntil(b"\r\n\r\nhi")
        # llama-server would close the first at its hundredth request; where requests take long one is in reserve
        assert here.engine.connections in {2, 3}


async def test_pipelined_requests_are_answered_in_order(short_dir: Path) -> None:
    async def echo_path(asked: Asked) -> None:
        path = asked.head.split()[1]
        asked.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(path), path))

    async with rig(short_dir, echo_path) as here:
        answer = await here.ask(
            request(path="/1", close=False)
            + request(method="GET", path="/health", close=False)
            + request(path="/2", body=b"b", close=False)
            + request(path="/3")
        )
    places = [answer.index(text) for text in (b"\r\n\r\n/1", b'"engine":"ready"', b"\r\n\r\n/2", b"\r\n\r\n/3")]
    assert places == sorted(places)


async def test_a_head_request_has_no_body_and_does_not_wait_for_one(short_dir: Path) -> None:
    async def length_only(asked: Asked) -> None:
        asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n")

    async with rig(short_dir, length_only) as here:
        answer = await here.ask(request(method="HEAD"))
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\nx-request-id: r1\r\nconnection: close\r\n\r\n"


async def test_an_http_1_0_client_gets_a_stream_without_chunk_framing(short_dir: Path) -> None:
    async def stream(asked: Asked) -> None:
        asked.writer.write(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")

    async with rig(short_dir, stream) as here:
        answer = await here.ask(b"GET /x HTTP/1.0\r\nhost: localhost\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nx-request-id: r1\r\nconnection: close\r\n\r\nonetwo"


async def test_expect_100_continue_is_answered_before_the_body_is_sent(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(b"POST /x HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.readuntil(b"\r\n\r\nhi")).startswith(b"HTTP/1.1 200 OK")
        assert b"expect" not in here.engine.asked[0].head


async def test_a_client_that_leaves_closes_the_engines_connection(short_dir: Path) -> None:
    left = asyncio.Event()

    async def stream_for_ever(asked: Asked) -> None:
        asked.writer.write(CHUNKED + b"3\r\none\r\n")
        await asked.left()
        left.set()

    async with rig(short_dir, stream_for_ever) as here:
        async with here.connect() as (reader, writer):
            writer.write(request(close=False))
            await reader.readuntil(b"one\r\n")
        await left.wait()
        assert counted(here, "cancelled") == 1


async def test_a_slow_reader_pauses_the_engine(short_dir: Path) -> None:
    flood = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    sent = 0
    blocked = asyncio.Event()

    async def stream_without_end(asked: Asked) -> None:
        nonlocal sent
        asked.writer.write(CHUNKED)
        while True:
            asked.writer.write(flood)
            try:
                async with asyncio.timeout(1):
                    await asked.writer.drain()
            except TimeoutError:
                blocked.set()
                await asked.writer.drain()
            sent += len(flood)

    async with rig(short_dir, stream_without_end) as here, here.connect() as (reader, writer):
        writer.write(request(close=False))
        await reader.readuntil(b"\r\n\r\n")
        await blocked.wait()
        stuck_at = sent
        assert stuck_at < 32 << 20  # what kernel buffers hold, far from all
        while sent == stuck_at:
            await reader.read(1 << 20)


async def test_an_engine_that_breaks_off_before_it_answers_gives_502(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(asked: Asked) -> None:
        asked.writer.transport.abort()

    monkeypatch.setattr("runner_supervisor.front.relay.VERDICT_S", 0.05)
    async with rig(short_dir, die) as here:
        answer = await here.ask(request())
        queueing = await here.ask(request(path="/v1/completions", body=b"{}"))
        assert len(here.engine.asked) == 2
    assert queueing.startswith(b"HTTP/1.1 502 ")
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"retry-after: 1\r\n" in answer


async def test_an_engine_that_dies_mid_stream_leaves_the_stream_without_its_end(short_dir: Path) -> None:
    async def die_later(asked: Asked) -> None:
        asked.writer.write(CHUNKED + b"3\r\none\r\n")
        await asked.writer.drain()
        asked.writer.close()

    async with rig(short_dir, die_later) as here:
        answer = await here.ask(request())
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n")


async def test_a_stream_that_breaks_on_a_kept_connection_is_not_begun_again(short_dir: Path) -> None:
    async def break_the_second(asked: Asked) -> None:
        if asked.body == b"whole":
            await say_hi(asked)
            return
        asked.writer.write(CHUNKED + b"3\r\none\r\n")
        await asked.writer.drain()
        asked.writer.close()

    async with rig(short_dir, break_the_second) as here, here.connect() as (reader, writer):
        writer.write(request(body=b"whole", close=False))
        await reader.readuntil(b"\r\n\r\nhi")
        writer.write(request(body=b"broken", close=False))
        assert await reader.read() == with_id(CHUNKED) + b"3\r\none\r\n"
        assert here.engine.connections == 1
        assert counted(here, "error") == 1


async def test_a_kept_connection_that_the_engine_gave_up_is_replaced(short_dir: Path) -> None:
    async def once_a_connection(asked: Asked) -> None:
        if any(asked.writer is before.writer for before in here.engine.asked[:-1]):
            asked.writer.transport.abort()
        else:
            await say_hi(asked)

    async with rig(short_dir, once_a_connection) as here, here.connect() as (reader, writer):
        for _ in range(2):
            writer.write(request(close=False))
            await reader.readuntil(b"\r\n\r\nhi")
        assert len(here.engine.asked) == 3


async def test_a_client_that_leaves_with_more_requests_pending_is_noticed(short_dir: Path) -> None:
    left = asyncio.Event()

    async def wait(asked: Asked) -> None:
        await asked.left()
        left.set()

    async with rig(short_dir, wait) as here:
        async with here.connect() as (_, writer):
            writer.write(request(close=False) * 3)
            while not here.engine.asked:
                await asyncio.sleep(0)
        await left.wait()


async def test_draining_refuses_new_requests_and_waits_for_old_ones(short_dir: Path) -> None:
    proceed = asyncio.Event()

    async def wait(asked: Asked) -> None:
        await proceed.wait()
        await say_hi(asked)

    async with rig(short_dir, wait) as here, here.connect() as (reader, writer):
        writer.write(request(close=False))
        while not here.engine.asked:
            await asyncio.sleep(0)
        assert await here.front.drain(0.01) == 1
        refused = await here.ask(request(close=False))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in refused
        draining = asyncio.create_task(here.front.drain(DEADLINE_S))
        proceed.set()
        assert (await reader.read()).endswith(b"connection: close\r\n\r\nhi")
        assert await draining == 0


async def test_without_a_ready_engine_the_answer_says_why_and_when_to_return(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        here.engine.retry_in_s = 7.4
        here.change(State.BACKOFF)
        answer = await here.ask(request())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 7\r\n" in answer
    assert b'"code": "engine_backoff"' in answer


@pytest.mark.parametrize("what", ["reload", "restart"])
async def test_no_change_begins_while_the_service_ends(short_dir: Path, what: str) -> None:
    async with rig(short_dir) as here:
        here.front.draining = True
        reader, writer = await asyncio.open_unix_connection(here.control)
        writer.write(request(path=f"/admin/{what}"))
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"draining"' in answer


async def test_unknown_admin_paths_are_404_in_openais_shape(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        reader, writer = await asyncio.open_unix_connection(here.control)
        writer.write(request(method="GET", path="/admin/nothing"))
        answer = await reader.read()
        writer.close()
        assert not here.engine.asked
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"error"' in answer


async def test_a_slow_reader_pauses_a_new_connection_to_the_engine_too(short_dir: Path) -> None:
    """The first answer fills the client's buffer and its connection closes; the second one's is new.

    The kernel's buffers are of a set size here, so that the first answer is sure to fill them and ours, and to end.
    """
    piece, sent = bytes(16384), 0

    async def flood(asked: Asked) -> None:
        nonlocal sent
        pieces = 20 if b"/first" in asked.head else 4000
        length = pieces * len(piece)
        asked.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % length)
        for _ in range(pieces):
            asked.writer.write(piece)
            await asked.writer.drain()
            sent += len(piece)
        asked.writer.close()

    async with rig(short_dir, flood, buffer_bytes=65536) as here:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", here.port))
            for path in ("/first", "/second"):
                await loop.sock_sendall(client, request(path=path, close=False))
            before = -1
            while sent != before:
                before = sent
                for _ in range(200):
                    await asyncio.sleep(0.001)
            asked = len(here.engine.asked)
    assert asked == 2
    assert sent < 100 * len(piece)


async def test_no_forwarded_header_and_no_foreign_host_makes_a_redirect(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        headers = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n"
        answer = await here.ask(request(method="GET", path="/health/", headers=headers))
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"location:" not in answer


async def stream_hi(asked: Asked) -> None:
    for piece in (CHUNKED, b"2\r\nhi\r\n", b"0\r\n\r\n"):
        asked.writer.write(piece)
        await asked.writer.drain()


def requests_held() -> int:
    return sum(isinstance(each, Relay | Visit) for each in gc.get_objects())


@pytest.mark.parametrize("answer", [say_hi, stream_hi], ids=["whole", "streamed"])
async def test_requests_leave_nothing_that_only_the_collector_can_free(short_dir: Path, answer: Answer) -> None:
    async with rig(short_dir, answer) as here, here.connect() as (reader, writer):
        gc.collect()
        gc.disable()
        before = requests_held()
        try:
            for number in range(5):
                writer.write(request(close=False))
                await reader.readuntil(b"hi")
                while counted(here, "ok") <= number:
                    await asyncio.sleep(0)
            left = requests_held() - before
        finally:
            gc.enable()
    assert left <= 2  # the last one's: its connection still knows it
