"""The one task that owns an engine: it feeds events to `core.lifecycle.step` and executes the effects."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner_supervisor.core.lifecycle import (
    Answered,
    Effect,
    Event,
    Exited,
    Kill,
    Machine,
    Policy,
    SetTimer,
    Spawn,
    SpawnFailed,
    Start,
    Stop,
    Terminate,
    TimerFired,
    step,
)
from runner_supervisor.core.restart import Cause, Death, Exit
from runner_supervisor.core.states import State
from runner_supervisor.engine.binary import EngineBinary
from runner_supervisor.engine.command import engine_argv, engine_environment
from runner_supervisor.engine.logs import EngineLog
from runner_supervisor.engine.probe import Health, Probe
from runner_supervisor.engine.process import Child, record_identity

logger = logging.getLogger(__name__)

PROBE_S = 0.05
METRICS_AGE_S = 2.0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to run: the binary, the model file, and llama-server flags of the user's."""

    binary: EngineBinary
    model: Path
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state, as observers see it. `socket` is where that generation listens."""

    before: State
    machine: Machine
    socket: Path


class EngineSupervisor:
    """Keeps one llama-server as its owner wants it: up or down.

    Anyone may call `start`, `stop` and the readers; `run` alone changes anything. Observers are called on the
    loop at each change of state and must not block.
    """

    def __init__(
        self,
        *,
        spec: EngineSpec,
        policy: Policy,
        run_dir: Path,
        log: EngineLog,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.spec = spec
        self.log = log
        self.machine = Machine(since=clock())
        self.observers: list[Callable[[Transition], None]] = []
        self._policy = policy
        self._run_dir = run_dir
        self._clock = clock
        self._jitter = jitter
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._child: Child | None = None
        self._last_words: str | None = None
        self._probe_task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[tuple[frozenset[State], asyncio.Future[State]]] = []
        self._metrics: tuple[float, str] | None = None

    @property
    def state(self) -> State:
        """Where the engine is in its life."""
        return self.machine.state

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._child.pid if self._child else None

    @property
    def slots(self) -> int:
        """How many requests the engine takes at once, as it said when it became READY."""
        return self.machine.slots

    @property
    def socket(self) -> Path:
        """Where the present generation listens. Each has its own, so a stale file never bars a start."""
        return self._socket_of(self.machine.generation)

    def _socket_of(self, generation: int) -> Path:
        return self._run_dir / f"engine-{generation}.sock"

    @property
    def state_age_s(self) -> float:
        """Seconds since the state last changed."""
        return self._clock() - self.machine.since

    @property
    def retry_in_s(self) -> float | None:
        """Seconds until the next start is tried, when one is planned."""
        at = self.machine.retry_at
        return None if at is None else max(0.0, at - self._clock())

    def start(self) -> None:
        """Want the engine up."""
        self._events.put_nowait(Start())

    def stop(self) -> None:
        """Want the engine down."""
        self._events.put_nowait(Stop())

    async def wait_for(self, *states: State) -> State:
        """Wait until the engine comes into one of `states`, unless it is there, and return which."""
        if self.machine.state in states:
            return self.machine.state
        waiter: asyncio.Future[State] = asyncio.get_running_loop().create_future()
        self._waiters.append((frozenset(states), waiter))
        return await waiter

    async def metrics(self) -> str | None:
        """llama-server's own metrics, at most two seconds old; None while it is not READY or does not answer.

        Asked for less often than that, because each question delays its notice of clients that left
        (tools/server/server-queue.cpp:450-471).
        """
        if self.state is not State.READY:
            return None
        now = self._clock()
        if self._metrics is None or now - self._metrics[0] >= METRICS_AGE_S:
            async with Probe(self.socket) as probe:
                text = await probe.metrics()
            if text is None:
                return None
            self._metrics = (now, text)
        return self._metrics[1]

    async def run(self) -> None:
        """Own the engine until cancelled; then end what is left of it at once."""
        try:
            while True:
                self._apply(await self._events.get())
        finally:
            if self._timer:
                self._timer.cancel()
            if self._probe_task:
                self._probe_task.cancel()
            if self._child:
                self._child.signal(signal.SIGKILL)
                await self._child.wait()

    def _apply(self, event: Event) -> None:
        before = self.machine
        self.machine, effects = step(before, event, now=self._clock(), policy=self._policy)
        if isinstance(event, Exited) and event.generation == before.generation:
            self._forget_child(event)
        for effect in effects:
            self._execute(effect)
        if self.machine.state is not before.state:
            self._announce(before.state)

    def _execute(self, effect: Effect) -> None:
        match effect:
            case Spawn(generation):
                self._spawn(generation)
            case Terminate():
                self._signal(signal.SIGTERM)
            case Kill():
                self._signal(signal.SIGKILL)
            case SetTimer(generation, timer, delay_s):
                self._set_timer(TimerFired(generation, timer), delay_s)

    def _set_timer(self, event: TimerFired, delay_s: float) -> None:
        """One timer runs at a time: each new one supersedes the last, whose purpose has passed."""
        if self._timer:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(delay_s, self._events.put_nowait, event)

    def _spawn(self, generation: int) -> None:
        self._metrics = None
        self.log.begin_run()
        argv = engine_argv(
            binary=self.spec.binary.path, model=self.spec.model, socket=self.socket, extra=self.spec.args
        )
        logger.debug("starting %s", argv)

        def exited(exit_: Exit) -> None:
            self._events.put_nowait(Exited(generation, exit_, self._jitter()))

        try:
            self._run_dir.mkdir(mode=0o700, exist_ok=True)  # a temporary folder may have been cleaned
            self.socket.unlink(missing_ok=True)
            self._child = Child.spawn(argv, environment=engine_environment(os.environ), log=self.log, on_exit=exited)
        except OSError as error:
            detail = f"cannot run {argv[0]}: {error.strerror}"
            self._events.put_nowait(SpawnFailed(generation, detail, self._jitter()))
            return
        try:
            record_identity(self._run_dir / "engine.json", self._child.identity(self.socket))
        except OSError as error:
            logger.warning("cannot record the engine's pid for the orphan sweep: %s", error)
        self._probe_task = asyncio.create_task(self._watch_until_ready(generation))

    def _signal(self, number: signal.Signals) -> None:
        if self._child:
            self._child.signal(number)

    def _forget_child(self, event: Exited) -> None:
        self._child = None
        self._last_words = None if event.exit.signal else self.log.last_error()
        if self._probe_task:
            self._probe_task.cancel()
            self._probe_task = None
        self._socket_of(event.generation).unlink(missing_ok=True)
        (self._run_dir / "engine.json").unlink(missing_ok=True)

    async def _watch_until_ready(self, generation: int) -> None:
        async with Probe(self.socket) as probe:
            while True:
                health = await probe.health()
                if health is Health.READY and (slots := await probe.slots()):
                    self._events.put_nowait(Answered(generation, ready=True, slots=slots))
                    return
                if health is Health.LOADING:
                    self._events.put_nowait(Answered(generation, ready=False))
                await asyncio.sleep(PROBE_S)

    def _announce(self, before: State) -> None:
        machine = self.machine
        self._log_transition(before)
        for states, waiter in self._waiters:
            if machine.state in states and not waiter.done():
                waiter.set_result(machine.state)
        self._waiters = [(states, waiter) for states, waiter in self._waiters if not waiter.done()]
        transition = Transition(before=before, machine=machine, socket=self.socket)
        for observer in self.observers:
            observer(transition)

    def _log_transition(self, before: State) -> None:
        machine = self.machine
        level = {State.BACKOFF: logging.WARNING, State.FAILED: logging.ERROR}.get(machine.state, logging.INFO)
        detail = ""
        if machine.state in {State.BACKOFF, State.FAILED} and machine.last_death:
            detail = f": {self.describe(machine.last_death)}"
        if self.retry_in_s is not None:
            detail += f"; next start in {self.retry_in_s:.1f} s"
        logger.log(level, "engine %s -> %s%s", before, machine.state, detail)

    def describe(self, death: Death) -> str:
        """Why the engine ended, in one line: the cause, how it ended, and its own last error line."""
        if death.cause is Cause.SPAWN:
            return death.detail
        said = f"; it said: {self._last_words}" if self._last_words else ""
        return f"llama-server ended with {death.detail} ({death.cause}){said}"
