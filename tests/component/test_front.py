"""The front on real sockets, before an engine that answers with whatever bytes a test gives it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.states import State
from runner_supervisor.engine.supervisor import EngineSupervisor, Transition
from runner_supervisor.front.gate import Gate
from runner_supervisor.front.server import Front, listen_tcp, listen_unix
from runner_supervisor.keys.store import KeyStore

pytestmark = pytest.mark.anyio

DEADLINE_S = 30
OK = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Length: 2\r\nKeep-Alive: timeout=5, max=100\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Asked:
    """One request as the engine got it, and its connection."""

    head: bytes
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def left(self) -> None:
        """Wait until the front has closed this connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass


Answer = Callable[[Asked], Awaitable[None]]


@dataclass
class Engine:
    """A scripted engine: `answer` is called for every request. It stands in for an EngineSupervisor too."""

    answer: Answer
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    state: State = State.READY
    machine: Machine = field(default_factory=lambda: Machine(state=State.READY))
    retry_in_s: float | None = None
    observers: list[Callable[[Transition], None]] = field(default_factory=list)

    async def metrics(self) -> None:
        """It has none."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")),
                    0,
                )
                asked = Asked(head, await reader.readexactly(length), reader, writer)
                self.asked.append(asked)
                await self.answer(asked)
        writer.close()


async def say_hi(asked: Asked) -> None:
    asked.writer.write(OK)
    await asked.writer.drain()


@dataclass
class Rig:
    """A front, its engine, and the way in."""

    front: Front
    engine: Engine
    port: int
    control: Path

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, request: bytes) -> bytes:
        """Send bytes on a new connection and read until the front closes it."""
        async with self.connect() as (reader, writer):
            writer.write(request)
            return await reader.read()


@asynccontextmanager
async def rig(
    folder: Path, answer: Answer = say_hi, *, max_body_bytes: int = 1000, key: str = ""
) -> AsyncIterator[Rig]:
    engine = Engine(answer)
    socket = folder / "engine.sock"
    listener = await asyncio.start_unix_server(engine.serve, socket)
    tcp, control = listen_tcp("127.0.0.1", 0), listen_unix(folder / "control.sock")
    keys = KeyStore(folder / "keys.sqlite", given=[key] if key else [])
    front = Front(
        engine=cast("EngineSupervisor", engine),
        gate=Gate(keys, open_=True),
        tcp=tcp,
        control=control,
        max_body_bytes=max_body_bytes,
        stop=lambda: None,
    )
    for observer in engine.observers:
        observer(Transition(before=State.STARTING, machine=engine.machine, socket=socket))
    server = asyncio.create_task(front.serve())
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield Rig(front, engine, tcp.getsockname()[1], folder / "control.sock")
    finally:
        front.close()
        await server
        listener.close()
        for asked in engine.asked:
            asked.writer.close()


def request(
    *, method: str = "POST", path: str = "/x", body: bytes = b"", headers: str = "", close: bool = True
) -> bytes:
    end = "connection: close\r\n" if close else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n{end}{headers}\r\n"
    return head.encode() + body


async def test_body_and_head_pass_without_what_belongs_to_one_connection(short_dir: Path) -> None:
    headers = "Accept: */*\r\nX-Mine: 1\r\nConnection: x-hop\r\nX-Hop: 2\r\nTE: trailers\r\nX-Conversation-Id: c\r\n"
    async with rig(short_dir) as here:
        answer = await here.ask(request(path="/a%20b?q=1", body=b"body", headers=headers))
        asked = here.engine.asked[0]
    assert answer == (b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Length: 2\r\nconnection: close\r\n\r\nhi")
    assert asked.head == (
        b"POST /a%20b?q=1 HTTP/1.1\r\nhost: h\r\naccept: */*\r\nx-mine: 1\r\ncontent-length: 4\r\n\r\n"
    )
    assert asked.body == b"body"


async def test_keys_are_checked_here_and_stay_here(short_dir: Path) -> None:
    async with rig(short_dir, key="secret") as here:
        refused = await here.ask(request())
        for header in ("Authorization: Bearer secret\r\n", "authorization: secret\r\n", "X-Api-Key: secret\r\n"):
            assert (await here.ask(request(headers=header))).endswith(b"hi")
        assert all(b"secret" not in asked.head for asked in here.engine.asked)
        assert len(here.engine.asked) == 3
    assert refused.startswith(b"HTTP/1.1 401 Unauthorized\r\n")


async def test_the_control_socket_needs_no_key(short_dir: Path) -> None:
    async with rig(short_dir, key="secret") as here:
        reader, writer = await asyncio.open_unix_connection(here.control)
        writer.write(request(method="GET", path="/metrics"))
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (short_dir / "control.sock").stat().st_mode & 0o777 == 0o600


async def test_a_chunked_request_body_arrives_whole_with_its_length(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        await here.ask(
            b"POST /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
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
        assert await reader.readuntil(b"one\r\n") == CHUNKED + b"3\r\none\r\n"
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
        assert here.engine.connections == 2  # llama-server would close the first at its hundredth request


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


async def test_thousands_of_pipelined_refusals_do_no_harm(short_dir: Path) -> None:
    async with rig(short_dir, key="secret") as here:
        answer = await here.ask(request(close=False) * 3000 + request())
    assert answer.count(b"HTTP/1.1 401 ") == 3001


async def test_a_head_request_has_no_body_and_does_not_wait_for_one(short_dir: Path) -> None:
    async def length_only(asked: Asked) -> None:
        asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n")

    async with rig(short_dir, length_only) as here:
        answer = await here.ask(request(method="HEAD"))
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\nconnection: close\r\n\r\n"


async def test_an_http_1_0_client_gets_a_stream_without_chunk_framing(short_dir: Path) -> None:
    async def stream(asked: Asked) -> None:
        asked.writer.write(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")

    async with rig(short_dir, stream) as here:
        answer = await here.ask(b"GET /x HTTP/1.0\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nonetwo"


async def test_expect_100_continue_is_answered_before_the_body_is_sent(short_dir: Path) -> None:
    async with rig(short_dir) as here, here.connect() as (reader, writer):
        writer.write(b"POST /x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.readuntil(b"\r\n\r\nhi")).startswith(b"HTTP/1.1 200 OK")
        assert b"expect" not in here.engine.asked[0].head


async def test_an_over_long_body_is_refused_before_it_is_sent(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        answer = await here.ask(
            b"POST /x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n"
        )
        assert not here.engine.asked
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


async def test_an_over_long_chunked_body_is_refused_when_it_grows_too_long(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        answer = await here.ask(
            b"POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" + b"200\r\n%b\r\n" % bytes(0x200) * 3
        )
        assert not here.engine.asked
    assert answer.startswith(b"HTTP/1.1 413 ")


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
        assert b'runner_requests_abandoned_total{path="other"} 1.0' in here.front.metrics.render()


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


async def test_an_engine_that_dies_before_it_answers_gives_502(short_dir: Path) -> None:
    async def die(asked: Asked) -> None:
        asked.writer.transport.abort()

    async with rig(short_dir, die) as here:
        answer = await here.ask(request())
        assert len(here.engine.asked) == 1
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


async def test_what_is_not_http_gets_400_and_never_reaches_the_engine(short_dir: Path) -> None:
    shapes = [
        b"not http at all\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ]
    async with rig(short_dir) as here:
        for shape in shapes:
            answer = await here.ask(shape)
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), shape
            assert b'"type": "invalid_request_error"' in answer
        assert not here.engine.asked


async def test_a_fault_of_our_own_is_500_and_logged(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("planted")

    async with rig(short_dir) as here:
        monkeypatch.setattr("runner_supervisor.front.protocol.FrontProtocol._admitted", fail)
        answer = await here.ask(request())
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "planted" in caplog.text


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
        here.engine.state = State.BACKOFF
        here.engine.retry_in_s = 7.4
        for observer in here.engine.observers:
            observer(Transition(before=State.READY, machine=Machine(state=State.BACKOFF), socket=short_dir / "none"))
        answer = await here.ask(request())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 7\r\n" in answer
    assert b'"code": "engine_backoff"' in answer


async def test_unknown_admin_paths_are_404_in_openais_shape(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        answer = await here.ask(request(method="GET", path="/admin/nothing"))
        assert not here.engine.asked
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"error"' in answer
