"""A front on real sockets, before an engine that answers with whatever bytes a test gives it."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.restart import Cause, Death
from runner_supervisor.core.states import State
from runner_supervisor.engine.succession import Succession
from runner_supervisor.engine.supervisor import Transition
from runner_supervisor.front.addresses import Proxies
from runner_supervisor.front.audit import AuditLog
from runner_supervisor.front.changes import Change
from runner_supervisor.front.gate import Gate
from runner_supervisor.front.listeners import bind_tcp, bind_unix
from runner_supervisor.front.pages.tail import LogTail
from runner_supervisor.front.requestids import RequestIds
from runner_supervisor.front.server import Front
from runner_supervisor.front.strikes import Strikes
from runner_supervisor.front.tls import Certificate
from runner_supervisor.front.visit import Desk
from runner_supervisor.keys.limits import LocalLimits
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.settings import Settings

DEADLINE_S = 30
OPENED = ("/x", "/a b", "/1", "/2", "/3", "/first", "/second")
"""Paths that the engine does not have, for requests that are nothing special."""

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


class OneId:
    """All requests have the same id here."""

    def next(self) -> bytes:
        return b"r1"


def with_id(answer: bytes) -> bytes:
    """The engine's answer as its client sees it: its request's id is the head's last line."""
    return answer.replace(b"\r\n\r\n", b"\r\nx-request-id: r1\r\n\r\n", 1)


Answer = Callable[[Asked], Awaitable[None]]


class NoChanges:
    """Nobody reloads or restarts anything here."""

    last: Change | None = None

    def reload(self) -> bool:
        return False

    def restart(self) -> bool:
        return False


NO_CHANGES = NoChanges()


@dataclass
class Engine:
    """A scripted engine: `answer` is called for every request. It stands in for a Succession too."""

    answer: Answer
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    slots: int = 100
    machine: Machine = field(default_factory=lambda: Machine(state=State.READY, wanted=True))
    retry_in_s: float | None = None
    observers: list[Callable[[Transition], None]] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.machine.state

    metrics: str | None = None
    socket: Path = Path()
    pid: int | None = 1
    rss_bytes: int = 0
    needed_bytes: int = 0
    state_age_s: float = 0.0
    backend = "cpu"
    commit = "0" * 40
    lowered: tuple[str, ...] = ()

    @property
    def spec(self) -> Engine:
        """What it runs: itself."""
        return self

    @property
    def binary(self) -> Engine:
        """What it runs of: itself."""
        return self

    served_as = "demo"
    load_s: float | None = None

    @property
    def current(self) -> Engine:
        """The engine that serves is always this one."""
        return self

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
    if not asked.writer.is_closing():
        asked.writer.write(OK)
        await asked.writer.drain()


@dataclass
class Rig:
    """A front, its engine, and the way in."""

    front: Front
    engine: Engine
    port: int
    control: Path
    socket: Path
    listener: asyncio.Server
    keys: KeyStore

    async def listen(self) -> None:
        """Let the engine listen again, after its socket was closed."""
        self.listener = await asyncio.start_unix_server(self.engine.serve, self.socket)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def change(self, state: State, *, wanted: bool = True, detail: str = "signal 9") -> None:
        """Let the engine's state change, as the front sees it. `detail`: how it died last."""
        before = self.engine.state
        death = Death(cause=Cause.CRASH, detail=detail, at=0.0, was_ready=True)
        self.engine.machine = Machine(state=state, wanted=wanted, last_death=death)
        transition = Transition(before=before, machine=self.engine.machine)
        for observer in self.engine.observers:
            observer(transition)

    def die(self) -> None:
        """Let nobody listen any more, and all connections break."""
        self.listener.close()
        self.socket.unlink()
        for asked in self.engine.asked:
            asked.writer.transport.abort()

    def crash(self, *, detail: str = "signal 9") -> None:
        """Let the engine die, and the supervisor know."""
        self.die()
        self.change(State.BACKOFF, detail=detail)

    async def come_back(self) -> None:
        """Let the next engine become ready."""
        await self.listen()
        self.change(State.READY)

    async def ask(self, request: bytes) -> bytes:
        """Send bytes on a new connection and read until the front closes it."""
        async with self.connect() as (reader, writer):
            writer.write(request)
            return await reader.read()


@asynccontextmanager
async def rig(
    folder: Path,
    answer: Answer = say_hi,
    *,
    max_body_bytes: int = 1000,
    max_buffered_bytes: int = 1 << 30,
    keys: Sequence[str] = (),
    slots: int = 100,
    queue_size: int = 100,
    queue_timeout_s: float = DEADLINE_S,
    max_retries: int = 1,
    buffer_bytes: int | None = None,
    certificate: Certificate | None = None,
    **more: Any,
) -> AsyncIterator[Rig]:
    socket = folder / "engine.sock"
    engine = Engine(answer, slots=slots, socket=socket)
    listener = await asyncio.start_unix_server(engine.serve, socket)
    tcp, control = bind_tcp("127.0.0.1", 0), bind_unix(folder / "control.sock")
    if buffer_bytes:
        tcp.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, buffer_bytes)
    store = KeyStore(folder / "keys.sqlite", given=keys)
    settings = Settings(
        max_body_bytes=max_body_bytes,
        max_buffered_bytes=max_buffered_bytes,
        queue_size=queue_size,
        queue_timeout_s=queue_timeout_s,
        max_retries=max_retries,
        open_paths=OPENED,
        **more,
    )
    front = Front(
        engines=cast("Succession", engine),
        gate=Gate(store, settings),
        desk=Desk(
            limiter=LocalLimits(),
            audit=None,
            contents=None,
            strikes=Strikes(clock=asyncio.get_running_loop().time),
            proxies=Proxies(()),
            ids=cast("RequestIds", OneId()),
        ),
        tcp=tcp,
        control=control,
        certificate=certificate,
        settings=settings,
        changes=lambda: NO_CHANGES,
        tail=LogTail(),
        stop=lambda: None,
    )
    for observer in engine.observers:
        observer(Transition(before=State.STARTING, machine=engine.machine))
    server = asyncio.create_task(front.serve())
    here = Rig(front, engine, tcp.getsockname()[1], folder / "control.sock", socket, listener, store)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not front.serving:
                await asyncio.sleep(0)
            yield here
    finally:
        front.close()
        await server
        front.desk.ledger.write_down()
        store.close()
        here.listener.close()
        for asked in engine.asked:
            asked.writer.close()


@contextlib.contextmanager
def audited(here: Rig, path: Path) -> Iterator[None]:
    """Requests are written down in an audit log, all of them at the end."""
    with contextlib.closing(AuditLog(path)) as here.front.desk.audit:
        yield
        here.front.desk.ledger.write_down()


def counted(here: Rig, outcome: str) -> float:
    """How many requests have ended so, by what the front exports."""
    text = b"".join(here.front.metrics.pieces()).decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "runner_requests_total" and sample.labels["outcome"] == outcome
    )


def request(
    *, method: str = "POST", path: str = "/x", body: bytes = b"", headers: str = "", close: bool = True
) -> bytes:
    end = "connection: close\r\n" if close else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{end}{headers}\r\n"
    return head.encode() + body
