"""Kept-alive connections to one engine's Unix socket, and one in reserve. One request at a time on each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, cast

from runner_supervisor.front.answers import Answers
from runner_supervisor.front.connection import Connection, Exchange, Pool
from runner_supervisor.front.outbox import Outbox

IDLE_S: Final = 4.0
"""llama-server closes a connection after 5 s idle (vendor/cpp-httplib/httplib.h:25)."""

SPARE_AFTER_S: Final = 0.005
"""How long after the last idle connection has been taken another one is opened, in seconds: not in the way of the
request that took it."""

VERDICT_EVERY_S: Final = 0.02


class Upstream(Pool):
    """The connections to one generation of the engine.

    Attributes:
        lost: nobody listens there any more, or soon nobody will.
        ended: how the engine ended, "signal 9" say; "" where it was told to end; None while that is not known.
    """

    def __init__(self, path: Path, outbox: Outbox) -> None:
        self.outbox = outbox
        self.answers = Answers()
        self._path = str(path)
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Connection, float] = {}
        self._opening: set[asyncio.Task[object]] = set()
        self._at_work: set[Connection] = set()
        self._quiet = asyncio.Event()
        self._drains = False
        self._closed = False
        self._opens_spare = False
        self.lost = False
        self.ended: str | None = None
        self._received = 0

    @property
    def received(self) -> int:
        """How many reads brought more than a ping, of all answers: a sign that the engine gets on."""
        return self._received + sum(connection.received for connection in self._at_work)

    @property
    def owed(self) -> int:
        """How many requests for work that takes a slot wait for more of their answers, and would take it."""
        return sum(connection.owes for connection in self._at_work)

    async def drained(self, timeout_s: float) -> int:
        """Wait until no request is at work on it.

        Args:
            timeout_s: how long at most, in seconds.

        Returns:
            How many still are.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                self._drains = True
                while self._at_work:
                    self._quiet.clear()
                    await self._quiet.wait()
        return len(self._at_work)

    def send(self, request: list[bytes], exchange: Exchange, *, head_only: bool) -> Connection:
        """Send a request on the connection used last that the engine has not given up yet, else on a new one.

        Raises:
            OSError: see `send_on_new`.
        """
        deadline = self._loop.time() - IDLE_S
        while self._idle:
            connection, since = self._idle.popitem()
            if connection.usable and since > deadline:
                self._at_work.add(connection)
                connection.send(request, exchange, head_only=head_only)
                break
            connection.abort()
        else:
            connection = self.send_on_new(request, exchange, head_only=head_only)
        if not (self._idle or self._opens_spare):
            self._opens_spare = True
            self._loop.call_later(SPARE_AFTER_S, self._open_spare)
        return connection

    def send_on_new(self, request: list[bytes], exchange: Exchange, *, head_only: bool) -> Connection:
        """Connect and send at once: on a Unix socket neither has to wait. The loop takes over for the answer.

        Raises:
            BlockingIOError: the engine's backlog is full at the moment.
            OSError: nobody listens there.
        """
        connecting = self._connect()
        try:
            sent = connecting.send(request[0])
        except OSError:
            connecting.close()
            raise
        connection = Connection(self)
        connection.rest = request[1:] if sent == len(request[0]) else [request[0][sent:], *request[1:]]
        connection.open(exchange, head_only=head_only)
        self._at_work.add(connection)
        self._hand_over(connection, connecting)
        return connection

    def _open_spare(self) -> None:
        """Open a connection before there is a request for it, which then need not wait for it."""
        self._opens_spare = False
        if self._idle or self._closed:
            return
        try:
            connecting = self._connect()
        except OSError:  # a request will find out why
            return
        self._hand_over(Connection(self), connecting)

    def _connect(self) -> socket.socket:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connecting.setblocking(False)
        try:
            connecting.connect(self._path)
        except OSError:
            connecting.close()
            raise
        return connecting

    def _hand_over(self, connection: Connection, connected: socket.socket) -> None:
        task = self._loop.create_task(self._attach(connection, connected))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _attach(self, connection: Connection, connected: socket.socket) -> None:
        try:
            transport, _ = await self._loop.create_unix_connection(
                lambda: cast("asyncio.Protocol", connection), sock=connected
            )
        except OSError:
            connection.connection_lost(None)
            return
        if transport.is_closing():
            # It was broken off before uvloop had noted the socket, and so is closed, but the socket does not know:
            # it would close the same number again some time, and by then that may be somebody else's.
            connected.detach()
        elif connection.paused:  # uvloop begins to read after `connection_made`, whatever that says
            transport.pause_reading()

    def release(self, connection: Connection) -> None:
        """Give a connection back for the next request."""
        if self._closed:
            connection.abort()
        else:
            self._idle[connection] = self._loop.time()

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        self._idle.pop(connection, None)
        self.end_work(connection)

    def end_work(self, connection: Connection) -> None:
        """A connection's request has its answer, or never will."""
        if connection not in self._at_work:
            return
        self._at_work.remove(connection)
        self._received += connection.received
        if self._drains and not self._at_work:
            self._quiet.set()

    def close(self) -> None:
        """Close the idle connections; those at work close when they are done."""
        self._closed = True
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()

    def lose(self, ended: str | None = None) -> None:
        """The engine is going or gone; `ended`, if it is known, says how."""
        self.lost = True
        self.ended = self.ended if ended is None else ended
        self.close()

    def when_ended(self, act: Callable[[], None], *, within_s: float) -> None:
        """Act once it is known how the engine ended, or when time is up, in seconds.

        A dying process closes its connections some moments before anyone can know that it is dead.
        """
        if self.ended is None and within_s > 0:
            again = partial(self.when_ended, act, within_s=within_s - VERDICT_EVERY_S)
            self._loop.call_later(VERDICT_EVERY_S, again)
        else:
            act()
