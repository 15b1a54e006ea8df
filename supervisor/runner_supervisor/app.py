"""The composition root: settings become wired objects, which run until a signal or a call ends them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.resources
import logging
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import filelock
import uvloop

from runner_supervisor.core.lifecycle import Policy
from runner_supervisor.core.restart import Cause
from runner_supervisor.core.states import State
from runner_supervisor.engine.binary import EngineBinary
from runner_supervisor.engine.command import DEMO_ARGS
from runner_supervisor.engine.logs import EngineLog
from runner_supervisor.engine.model import check_model
from runner_supervisor.engine.process import sweep_orphan
from runner_supervisor.engine.supervisor import EngineSpec, EngineSupervisor, Transition
from runner_supervisor.errors import AlreadyRunningError, ConfigError, EngineError
from runner_supervisor.front.gate import Gate
from runner_supervisor.front.server import Front, bind_tcp, bind_unix
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.layout import Layout
from runner_supervisor.settings import Settings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

OPEN_FILES = 65_536
"""As many open files as we ask for; two for each request at work."""

END_SLACK_S = 5.0
"""What the end may take beyond the engine's grace period: KILL, the last log lines."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a newcomer wants to know once requests are served.

    `new_key` is seen this once only. `key_store`: where keys are kept, if any are needed. `host` is what was
    asked for, where `address` is one that this machine can use.
    """

    address: str
    model: Path
    backend: str
    log: Path
    new_key: str | None
    key_store: Path | None
    host: str


def demo_model() -> Path:
    """The model that comes along."""
    return Path(str(importlib.resources.files("runner_supervisor") / "demo" / "demo.gguf"))


def run(settings: Settings, *, find_binary: Callable[[], EngineBinary], on_ready: Callable[[Ready], None]) -> None:
    """Run the service until it is told to stop.

    Everything that can be refused is refused before `find_binary` is called, which may take minutes.

    Args:
        settings: this run's settings.
        find_binary: finds or builds llama-server.
        on_ready: called once, when requests are first served.

    Raises:
        RunnerError: the service cannot start, or its first engine never became ready.
    """
    model = settings.model or demo_model()
    for notice in settings.notices:
        logger.info("%s", notice)
    check_model(model)
    given_keys = settings.given_keys()
    layout = Layout(settings.state_dir)
    layout.create()
    _allow_open_files()
    with _only_one(layout), contextlib.ExitStack() as stack:
        tcp = stack.enter_context(bind_tcp(settings.host, settings.port))
        control = stack.enter_context(bind_unix(layout.control_socket))
        stack.callback(layout.control_socket.unlink, missing_ok=True)
        args = (*(() if settings.model else DEMO_ARGS), *settings.engine_flags)
        spec = EngineSpec(binary=find_binary(), model=model, args=args)
        keys = KeyStore(layout.keys, given=given_keys)
        new_key = None
        if not settings.on_loopback and not len(keys):
            new_key = keys.create("first start")
        orphan = sweep_orphan(layout.engine_record)
        if orphan:
            logger.warning("ended llama-server %d, left behind by a supervisor that died", orphan)
        for stale in layout.run_dir.glob("engine-*.sock"):
            stale.unlink()
        log = EngineLog(layout.engine_log)
        stack.callback(log.close)

        async def serve() -> None:
            service = Service(settings, spec=spec, layout=layout, log=log, keys=keys, new_key=new_key)
            await service.run(tcp=tcp, control=control, on_ready=on_ready)

        uvloop.run(serve())


def _allow_open_files() -> None:
    """Raise the soft limit, which was made for `select` and is often 1024: every connection takes a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _only_one(layout: Layout) -> Iterator[None]:
    lock = filelock.FileLock(layout.lock, mode=0o600)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise AlreadyRunningError(
            f"another supervisor runs on {layout.state_dir}; see `runner-supervisor status`, or name another "
            "folder with --state-dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


class Service:
    """One run: an engine, a front, and what happens between the first signal and the end."""

    def __init__(
        self,
        settings: Settings,
        *,
        spec: EngineSpec,
        layout: Layout,
        log: EngineLog,
        keys: KeyStore,
        new_key: str | None,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._new_key = new_key
        self._key_store = layout.keys
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._gave_up = asyncio.Event()
        policy = Policy(load_timeout_s=settings.load_timeout_s, stop_grace_s=settings.stop_grace_s)
        self._engine = EngineSupervisor(spec=spec, policy=policy, run_dir=layout.run_dir, log=log)
        self._engine.observers.append(self._on_transition)

    async def run(self, *, tcp: socket.socket, control: socket.socket, on_ready: Callable[[Ready], None]) -> None:
        """Serve until stopped; then drain, end the engine, close."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask_to_stop)
        gate = Gate(self._keys, open_=self._settings.on_loopback)
        front = Front(
            engine=self._engine,
            gate=gate,
            tcp=tcp,
            control=control,
            max_body_bytes=self._settings.max_body_bytes,
            max_buffered_bytes=self._settings.max_buffered_bytes,
            queue_size=self._settings.queue_size,
            queue_timeout_s=self._settings.queue_timeout_s,
            max_retries=self._settings.max_retries,
            stop=self._stop.set,
        )
        owner = asyncio.create_task(self._engine.run(), name="engine")
        server = asyncio.create_task(front.serve(), name="front")
        greeter = asyncio.create_task(self._greet(front, gate, on_ready), name="greeter")
        self._engine.start()
        try:
            await _first(owner, server, self._stop, self._gave_up)
            if self._gave_up.is_set():
                raise self._why()
            if not owner.done() and not server.done():
                await self._end(front)
        finally:
            greeter.cancel()
            front.close()
            owner.cancel()
            await asyncio.wait({greeter, server, owner}, timeout=END_SLACK_S)
        for task in (owner, server, greeter):
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_transition(self, transition: Transition) -> None:
        machine = transition.machine
        if machine.state is State.FAILED and not machine.ever_ready and machine.retry_at is None:
            self._gave_up.set()

    def _why(self) -> EngineError | ConfigError:
        death = self._engine.machine.last_death
        if death is None:
            return EngineError("the engine gave up")
        message = f"{self._engine.describe(death)}; the whole log is {self._engine.log.path}"
        return ConfigError(message) if death.cause is Cause.CONFIG else EngineError(message)

    async def _greet(self, front: Front, gate: Gate, on_ready: Callable[[Ready], None]) -> None:
        await self._engine.wait_for(State.READY)
        gc.collect()
        gc.freeze()
        spec = self._engine.spec
        on_ready(
            Ready(
                address=front.address,
                model=spec.model,
                backend=spec.binary.backend,
                log=self._engine.log.path,
                new_key=self._new_key,
                key_store=None if gate.open else self._key_store,
                host=self._settings.host,
            )
        )

    async def _end(self, front: Front) -> None:
        timeout_s = self._settings.drain_timeout_s
        logger.info("stopping: requests in flight may finish for up to %g s", timeout_s)
        left = await _unless(self._hurry, front.drain(timeout_s))
        if left:
            logger.warning("%d requests were still in flight and are cut off", left)
        self._engine.stop()
        limit_s = self._settings.stop_grace_s + END_SLACK_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_unless(self._hurry, self._engine.wait_for(State.STOPPED)), limit_s)


async def _first(*awaited: asyncio.Task[None] | asyncio.Event) -> None:
    """Wait for a task to end or an event to be set, whichever comes first."""
    waiters = [asyncio.ensure_future(item.wait()) for item in awaited if isinstance(item, asyncio.Event)]
    tasks = [item for item in awaited if isinstance(item, asyncio.Task)]
    try:
        await asyncio.wait([*waiters, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


async def _unless(event: asyncio.Event, work: Coroutine[object, object, Result]) -> Result | None:
    """The result of `work`, or None when `event` is set first."""
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        waiter.cancel()
        task.cancel()
