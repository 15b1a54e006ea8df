"""The front as a whole: listening sockets, uvicorn, the engine's connections, draining."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.states import State
from runner_supervisor.engine.succession import Succession
from runner_supervisor.engine.supervisor import Transition, epitaph
from runner_supervisor.engine.watch import Traffic
from runner_supervisor.front.addresses import Proxies
from runner_supervisor.front.backend import Backend
from runner_supervisor.front.changes import Changes
from runner_supervisor.front.control import Load, create_control_app
from runner_supervisor.front.gate import Gate
from runner_supervisor.front.heads import Heads
from runner_supervisor.front.metrics import Metrics
from runner_supervisor.front.outbox import Outbox
from runner_supervisor.front.pages.pulse import Pulse
from runner_supervisor.front.pages.tail import LogTail
from runner_supervisor.front.protocol import FrontProtocol
from runner_supervisor.front.queue import SlotQueue
from runner_supervisor.front.replies import Refusal
from runner_supervisor.front.tls import HANDSHAKE_S, Certificate
from runner_supervisor.front.upstream import Upstream
from runner_supervisor.front.visit import Desk
from runner_supervisor.settings import Settings

logger = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""How long an idle client connection is kept, in seconds: longer than clients keep theirs, so they close first."""

TICK_S = 1.0
"""How often uvicorn and each connection look at the clock, in seconds."""

CLOSE_S = 2
"""How long connections that are still open at the very end may take to close, in seconds."""


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the app decides when to stop. TLS is for TCP alone."""

    def __init__(self, config: uvicorn.Config, *, certificate: Certificate | None) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._wake = asyncio.Event()

    async def main_loop(self) -> None:
        """Until `end`. In place of uvicorn's, which looks ten times a second whether it is told to."""
        while not await self.on_tick(0):
            for connection in list(self.server_state.connections):
                try:
                    cast("FrontProtocol", connection).look_at_the_clock()
                except Exception:
                    logger.exception("a silent connection could not be ended")
            timer = asyncio.get_running_loop().call_later(TICK_S, self._wake.set)
            await self._wake.wait()
            self._wake.clear()
            timer.cancel()

    def end(self) -> None:
        """Let `serve` come to its end."""
        self.should_exit = True
        self._wake.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on these sockets. In place of uvicorn's, which has TLS on all of them or on none."""
        self.servers = [await self._listen(each) for each in sockets or ()]
        self.started = True

    async def _listen(self, listener: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        backlog = self.config.backlog
        trusted = listener.family == socket.AF_UNIX
        make = cast("Callable[..., FrontProtocol]", self.config.http_protocol_class)
        first = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, trusted=trusted
        )
        if self._certificate is None or trusted:
            return await loop.create_server(first.another, sock=listener, backlog=backlog)
        return await loop.create_server(
            first.another,
            sock=listener,
            backlog=backlog,
            ssl=self._certificate.context,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=CLOSE_S,
        )


class Front:
    """Serves clients for one engine."""

    def __init__(
        self,
        *,
        engines: Succession,
        gate: Gate,
        desk: Desk,
        tcp: socket.socket,
        control: socket.socket,
        certificate: Certificate | None,
        settings: Settings,
        changes: Callable[[], Changes],
        tail: LogTail,
        stop: Callable[[], None],
    ) -> None:
        self.metrics = Metrics(tally=desk.tally, engines=engines)
        self.queue = SlotQueue(metrics=self.metrics)
        self.desk = desk
        self.backend = Backend(
            metrics=self.metrics,
            outbox=Outbox(asyncio.get_running_loop()),
            queue=self.queue,
            desk=desk,
            hopeless=self._hopeless,
            unavailable=self._unavailable,
        )
        self.metrics.write_down = desk.ledger.write_down
        self._gate = gate
        gate.model = desk.model = engines.current.spec.served_as
        self.apply(settings)
        self._engines = engines
        self._sockets = [tcp, control]
        self.address = _url("https" if certificate else "http", tcp)
        self._leaving: Upstream | None = None
        self._between = False
        self.metrics.in_flight = lambda: len(self.backend.relays)
        engines.observers.append(self._on_transition)
        self._pulse = Pulse(
            engines=engines,
            queue=self.queue,
            tail=tail,
            live=self.backend.relays,
            draining=lambda: self.draining,
            changes=changes,
            write_down=desk.ledger.write_down,
        )
        desk.written = self._pulse.ended
        app = create_control_app(
            engines=engines,
            changes=changes,
            desk=desk,
            metrics=self.metrics,
            pulse=self._pulse,
            version=lambda: gate.version,
            address=lambda: self.address,
            load=self._load,
            stop=stop,
        )
        config = uvicorn.Config(
            app,
            http=cast("Any", partial(FrontProtocol, backend=self.backend, heads=Heads(gate))),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who is believed is said by trusted_proxies (front/addresses.py)
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CLOSE_S,
        )
        self._server = Server(config, certificate=certificate)

    def _load(self) -> Load:
        return Load(self.draining, len(self.backend.relays), self.queue.queued, self._ends_within_s)

    @property
    def draining(self) -> bool:
        """Whether no more requests are admitted."""
        return self.backend.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self.backend.draining = value

    @property
    def serving(self) -> bool:
        """Whether connections are taken."""
        return self._server.started

    async def serve(self) -> None:
        """Serve until `close`."""
        pulse = asyncio.create_task(self._pulse.run(), name="pulse")
        pulse.add_done_callback(_mourn)
        try:
            await self._server.serve(sockets=self._sockets)
        finally:
            pulse.cancel()
            await asyncio.wait({pulse})

    def apply(self, settings: Settings) -> None:
        """Take over what the settings say of the front. Requests that wait already keep their time."""
        backend = self.backend
        backend.max_body_bytes = settings.max_body_bytes
        backend.max_buffered_bytes = settings.max_buffered_bytes
        backend.max_retries = settings.max_retries
        self._ends_within_s = settings.drain_timeout_s + settings.stop_grace_s
        self.desk.proxies = Proxies(settings.trusted_proxies)
        self.desk.tally.by_key = settings.metrics_by_key
        self._gate.apply(settings)
        self.queue.set_limits(queue_size=settings.queue_size, timeout_s=settings.queue_timeout_s)

    @contextlib.contextmanager
    def between_engines(self) -> Iterator[None]:
        """One engine makes room for another: requests wait meanwhile, and none is told that it is no use."""
        self._between = True
        self._leave()
        try:
            yield
        finally:
            self._between = False
            self._follow(self._engines.current.machine)

    async def left(self, timeout_s: float) -> int:
        """Wait, at most so many seconds, until the engine before the present one has no request at work.

        Returns:
            How many it still has.
        """
        leaving = self._leaving
        if leaving is None:
            return 0
        left = await leaving.drained(timeout_s)
        leaving.lose("")  # what it has yet is cut off when it ends, as it is going to be told to
        return left

    async def drain(self, timeout_s: float) -> int:
        """Admit no more requests and wait for those in flight.

        Args:
            timeout_s: how long, in seconds.

        Returns:
            How many were still in flight when time ran out.
        """
        self.draining = True
        if not self.backend.relays:
            return 0
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.backend.idle.wait(), timeout_s)
        return len(self.backend.relays)

    def stop_listening(self) -> None:
        """Leave clients' new connections to whoever listens for us: they wait for our successor."""
        if self.serving:
            self._server.servers[0].close()

    def close(self) -> None:
        """Let `serve` end."""
        self._lose_upstream("")
        self._pulse.close()
        self._server.end()

    def _unavailable(self) -> Refusal:
        """Why there is no READY engine."""
        engine = self._engines.current
        state, retry_in_s, death = engine.state, engine.retry_in_s, engine.machine.last_death
        message = {
            State.LOADING: "The model is loading.",
            State.STARTING: "The model server is starting.",
            State.BACKOFF: "The model server ended and is about to be started again.",
            State.FAILED: "The model server does not start.",
        }.get(state, "The model server is not running.")
        if state is State.FAILED and death:
            message += f" {epitaph(death)}"
        return Refusal(503, f"engine_{state}", message, retry_after_s=max(1, round(retry_in_s or 1)))

    def _hopeless(self) -> bool:
        """Whether no engine is READY and none is on its way, so that waiting is no use."""
        machine = self._engines.current.machine
        return not self._between and (
            machine.state in {State.FAILED, State.STOPPED} or (machine.state is State.STOPPING and not machine.wanted)
        )

    def _lose_upstream(self, ended: str) -> None:
        if self.backend.last:
            self.backend.last.lose(ended)
        self.queue.set_slots(0)
        self.queue.forget_working()

    def _leave(self) -> None:
        """The engine gets no more requests, and may finish those it has."""
        backend = self.backend
        if backend.last:
            backend.last.lose()
        self._leaving, backend.last = backend.last, None
        self.queue.set_slots(0)
        self.queue.forget_working()

    def _on_transition(self, transition: Transition) -> None:
        self.metrics.engine.heard(transition.machine)
        if transition.before is State.READY and transition.machine.state is not State.READY:
            self._lose_upstream(how_ended(transition.machine))
        if not self._between:
            self._follow(transition.machine)

    def _follow(self, machine: Machine) -> None:
        """Send requests to the engine if it is READY; let those know that wait in vain."""
        if machine.state is State.READY:
            if self.backend.upstream():
                self._leave()
            engine = self._engines.current
            self._gate.model = self.desk.model = engine.spec.served_as
            upstream = self.backend.last = Upstream(engine.socket, self.backend.outbox)
            engine.traffic = lambda: Traffic(busy=upstream.owed, received=upstream.received)
            self.queue.set_slots(engine.slots)
        elif self._hopeless():
            self.queue.expire_all()


def _url(scheme: str, listener: socket.socket) -> str:
    """The URL that clients on this machine use."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _mourn(pulse: asyncio.Task[None]) -> None:
    """Requests are served whatever becomes of the status page."""
    if not pulse.cancelled() and (error := pulse.exception()):
        logger.error("the status page gets no more news until the next start", exc_info=error)


def how_ended(machine: Machine) -> str:
    """How an engine that is READY no more ended, "signal 9" say; "" where it was told to end."""
    if machine.killed_for:
        return "it hung"
    return "" if machine.state is State.STOPPING or machine.last_death is None else machine.last_death.detail
