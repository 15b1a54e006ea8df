"""The one task that owns an engine: it feeds events to `core.lifecycle.step` and executes the effects."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from runner_supervisor.core.fitting import Rung
from runner_supervisor.core.lifecycle import (
    Effect,
    Event,
    Exited,
    Kill,
    Machine,
    Policy,
    SetTimer,
    Spawn,
    SpawnFailed,
    Stalled,
    Start,
    Stop,
    Terminate,
    TimerFired,
    step,
)
from runner_supervisor.core.restart import MEANING, Cause, Death, Exit
from runner_supervisor.core.states import State
from runner_supervisor.engine.binary import EngineBinary
from runner_supervisor.engine.command import engine_argv, engine_environment, served_as
from runner_supervisor.engine.logs import EngineLog, RunLog, first_error, level_of, without_paths
from runner_supervisor.engine.memory import oom_kills
from runner_supervisor.engine.process import Child, record_identity
from runner_supervisor.engine.watch import Traffic, Watch
from runner_supervisor.errors import ConfigError
from runner_supervisor.private import private_folder, remove_socket

logger = logging.getLogger(__name__)

QUOTES = f"{__name__}.quotes"
"""The logger of what llama-server said last, which may quote requests."""

quotes = logging.getLogger(QUOTES)

METRICS_AGE_S = 5.0
"""How old the engine's metrics may be, in seconds, before it counts as not answering."""

QUOTED_LINES = 5


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to run: the binary, the model file (and its size and time of change), and the user's flags.

    What follows from the memory that is free at the moment is no part of that: `needed_bytes` and `gpu_bytes`, the
    estimate; `sized`, flags that were left to us; `ladder`, the steps down if memory runs out.
    """

    binary: EngineBinary
    model: Path
    args: tuple[str, ...]
    stamp: tuple[int, int] = (0, 0)
    needed_bytes: int = field(default=0, compare=False)
    gpu_bytes: int = field(default=0, compare=False)
    sized: tuple[str, ...] = field(default=(), compare=False)
    ladder: tuple[Rung, ...] = field(default=(), compare=False)

    @property
    def served_as(self) -> str:
        """The name by which clients know the model."""
        return served_as(self.model, self.args)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine keeps its files: sockets and its record (`name` tells it from others there), and reports."""

    run_dir: Path
    reports: Path
    name: str = "1"

    def socket(self, generation: int) -> Path:
        """Where one generation listens. Each has its own, so a stale file never bars a start."""
        return self.run_dir / f"engine-{self.name}-{generation}.sock"

    @property
    def record(self) -> Path:
        """Which child is running, for the orphan sweep."""
        return self.run_dir / f"engine-{self.name}.json"


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state, as observers see it."""

    before: State
    machine: Machine


@dataclass(slots=True)
class Running:
    """One generation's process and what belongs to it. `oom_kills`: the kernel's count when it was made."""

    child: Child
    log: RunLog
    watch: Watch
    task: asyncio.Task[None]
    oom_kills: int | None


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
        place: Place,
        log: EngineLog,
        before: Machine | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Args beside the obvious: `before`, the machine of the engine that this one follows, for its history."""
        past = before or Machine()
        self.spec = spec
        self.log = log
        self.place = place
        self.machine = Machine(since=clock(), restarts=past.restarts, last_death=past.last_death)
        self.observers: list[Callable[[Transition], None]] = []
        self.traffic: Callable[[], Traffic] = Traffic
        self.load_s: float | None = None
        self._started_at = 0.0
        self._policy = replace(policy, rungs=len(spec.ladder))
        self._clock = clock
        self._jitter = jitter
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._running: Running | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[tuple[frozenset[State], asyncio.Future[State]]] = []

    @property
    def state(self) -> State:
        """Where the engine is in its life."""
        return self.machine.state

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._running.child.pid if self._running else None

    @property
    def rss_bytes(self) -> int:
        """The child's resident memory, in bytes; 0 without a child."""
        return self._running.child.rss_bytes if self._running else 0

    @property
    def private_bytes(self) -> int:
        """The child's memory that is free when it has gone, in bytes; 0 without a child."""
        return self._running.child.private_bytes if self._running else 0

    @property
    def slots(self) -> int:
        """How many requests the engine takes at once, as it said when it became READY."""
        return self.machine.slots

    @property
    def socket(self) -> Path:
        """Where the present generation listens."""
        return self.place.socket(self.machine.generation)

    @property
    def state_age_s(self) -> float:
        """Seconds since the state last changed."""
        return self._clock() - self.machine.since

    @property
    def retry_in_s(self) -> float | None:
        """Seconds until the next start is tried, when one is planned."""
        at = self.machine.retry_at
        return None if at is None else max(0.0, at - self._clock())

    @property
    def lowered(self) -> list[str]:
        """What the engine runs with less of, since memory ran out: a line for each step down."""
        return [rung.says for rung in self.spec.ladder[: self.machine.lowered]]

    @property
    def metrics(self) -> str | None:
        """llama-server's own metrics, as its watch last had them; None while it is not READY or does not answer."""
        scrape = self._running.watch.scrape if self._running else None
        if self.state is not State.READY or scrape is None or time.monotonic() - scrape.at > METRICS_AGE_S:
            return None
        return scrape.text

    def use(self, policy: Policy) -> None:
        """From now on decide by these numbers. A timer that runs stays."""
        self._policy = replace(policy, rungs=len(self.spec.ladder))

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

    async def run(self) -> None:
        """Own the engine until cancelled; then end what is left of it at once."""
        try:
            while True:
                self._apply(await self._events.get())
        finally:
            if self._timer:
                self._timer.cancel()
            if self._running:
                self._running.task.cancel()
                self._running.child.signal(signal.SIGKILL)
                await self._running.child.wait()

    def _apply(self, event: Event) -> None:
        before = self.machine
        self.machine, effects = step(before, event, now=self._clock(), policy=self._policy)
        if isinstance(event, Exited) and event.generation == before.generation:
            self._forget_child(event)
        for effect in effects:
            self._execute(effect)
        if self.machine.state is not before.state:
            self._announce(before)

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
        lowered = self.machine.lowered
        rung = self.spec.ladder[lowered - 1].flags if lowered else ()
        extra = (*self.spec.args, *(rung or self.spec.sized))
        argv = engine_argv(binary=self.spec.binary.path, model=self.spec.model, socket=self.socket, extra=extra)
        logger.debug("starting %s", argv)
        log = self.log.begin_run(f"llama-server {self.place.name}-{generation}")
        kills = oom_kills(None)
        try:
            private_folder(self.place.run_dir)  # a temporary folder may have been cleaned
            remove_socket(self.socket)
            exited = partial(self._exited, generation)
            child = Child.spawn(argv, environment=engine_environment(os.environ), log=log, on_exit=exited)
        except (OSError, ConfigError) as error:
            detail = f"cannot run {argv[0]}: {error.strerror if isinstance(error, OSError) else error}"
            self._events.put_nowait(SpawnFailed(generation, detail, self._jitter()))
            return
        self._record(child)
        watch = Watch(
            generation=generation,
            child=child,
            socket=self.socket,
            log=log,
            policy=lambda: self._policy,
            reports=self.place.reports,
            traffic=self._traffic,
            post=self._events.put_nowait,
        )
        task = asyncio.create_task(watch.run(), name=f"watch-{child.pid}")
        task.add_done_callback(partial(self._watched, generation))
        self._running = Running(child, log, watch, task, kills)

    def _record(self, child: Child) -> None:
        try:
            record_identity(self.place.record, child.identity(self.socket))
        except OSError as error:
            logger.warning("cannot record the engine's pid for the orphan sweep: %s", error)

    def _watched(self, generation: int, task: asyncio.Task[None]) -> None:
        """A child that nobody watches is as bad as one that hangs."""
        if not task.cancelled() and (error := task.exception()):
            logger.error("the watch over llama-server failed", exc_info=error)
            self._events.put_nowait(Stalled(generation, f"its watch failed: {error}"))

    def _traffic(self) -> Traffic:
        return self.traffic()  # whoever sends requests may come to say so later

    def _exited(self, generation: int, exit_: Exit) -> None:
        running = self._running
        kills = oom_kills(None)
        self._events.put_nowait(
            Exited(
                generation,
                exit_,
                self._jitter(),
                words=running.log.last if running else (),
                oom_killed=bool(running and kills and running.oom_kills is not None and kills > running.oom_kills),
            )
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._running:
            self._running.child.signal(number)

    def _forget_child(self, event: Exited) -> None:
        if self._running:
            self._running.task.cancel()
            self._running = None
        self.place.socket(event.generation).unlink(missing_ok=True)
        self.place.record.unlink(missing_ok=True)

    def _announce(self, before: Machine) -> None:
        machine = self.machine
        if before.state is State.STARTING and self._running:
            self._record(self._running.child)  # a wrapper script has become llama-server by now
        if machine.state is State.STARTING:
            self._started_at = machine.since
        elif machine.state is State.READY:
            self.load_s = machine.since - self._started_at
        self._log_transition(before)
        for states, waiter in self._waiters:
            if machine.state in states and not waiter.done():
                waiter.set_result(machine.state)
        self._waiters = [(states, waiter) for states, waiter in self._waiters if not waiter.done()]
        transition = Transition(before=before.state, machine=machine)
        for observer in self.observers:
            observer(transition)

    def _log_transition(self, before: Machine) -> None:
        machine = self.machine
        level = {State.BACKOFF: logging.WARNING, State.FAILED: logging.ERROR}.get(machine.state, logging.INFO)
        detail = ""
        died = machine.last_death is not before.last_death
        if died and machine.last_death:
            detail = f": {describe(machine.last_death)}"
        if machine.killed_for and machine.state is State.STOPPING and machine.wanted:
            level, detail = logging.WARNING, f": {machine.killed_for.detail}"
        if machine.lowered > before.lowered:
            detail += f"; out of memory, so with less: {self.lowered[-1]}"
        if self.retry_in_s is not None:
            detail += f"; next start in {self.retry_in_s:.1f} s"
            if machine.state is State.FAILED:
                detail = f"{detail}, or at once with `runner-supervisor restart`: given up after {_times(machine)}"
        name, pid = self.place.name, f" (pid {self.pid})" if self.pid else ""
        logger.log(level, "engine %s%s: %s -> %s%s", name, pid, before.state, machine.state, detail)
        if died and machine.last_death:
            for line in filter(None, machine.last_death.words[-QUOTED_LINES:]):
                quotes.info("engine %s said: %s", name, line)


def _times(machine: Machine) -> str:
    count = max(len(machine.deaths), machine.fruitless)
    return f"{count} deaths in a row" if count > 1 else "one"


def describe(death: Death) -> str:
    """Why an engine ended, in one line: the cause, how it ended, and its own first error line."""
    if death.cause is Cause.SPAWN:
        return death.detail
    ended = {
        Cause.STALL: f"llama-server hung and was ended: {death.detail}",
        Cause.LOAD_TIMEOUT: f"llama-server did not get on with its load and was ended: {death.detail}",
    }.get(death.cause, f"llama-server ended with {death.detail} ({death.cause})")
    error = first_error(death.words)
    return f"{ended}; it said: {error}" if error and death.cause is not Cause.CRASH else ended


def epitaph(death: Death) -> str:
    """Why an engine ended, for strangers: its cause and last errors, without paths. Its other lines may quote what
    somebody else asked for: grammars, and prompts when it is verbose.
    """
    words = [without_paths(line) for line in death.words if level_of(line) == "error"][-QUOTED_LINES:]
    said = f" Its last errors: {' | '.join(words)}" if words else ""
    return f"{death.cause}: {MEANING[death.cause]}.{said}"
