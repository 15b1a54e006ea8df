"""The composition root: settings become wired objects, which run until a signal or a call ends them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import TypeVar

import filelock
import uvloop

from runner_supervisor.calls import Calls, Ready
from runner_supervisor.core.access import Scope
from runner_supervisor.core.lifecycle import Machine, Policy
from runner_supervisor.core.restart import Cause
from runner_supervisor.core.states import State
from runner_supervisor.engine.logs import EngineLog, parse
from runner_supervisor.engine.model import check_model
from runner_supervisor.engine.process import sweep_orphans
from runner_supervisor.engine.succession import Succession
from runner_supervisor.engine.supervisor import EngineSpec, EngineSupervisor, Place, Transition, describe
from runner_supervisor.errors import AlreadyRunningError, ConfigError, EngineError
from runner_supervisor.front.changes import Progress
from runner_supervisor.front.gate import Gate
from runner_supervisor.front.listeners import bind_tcp, bind_unix
from runner_supervisor.front.pages.tail import LogTail, tailing
from runner_supervisor.front.server import Front
from runner_supervisor.front.tls import Certificate
from runner_supervisor.front.traces import tracing
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.layout import Layout
from runner_supervisor.logformat import ENGINE, also_log, set_level
from runner_supervisor.ownlog import log_to
from runner_supervisor.planning import Plan, Predecessor, model_of, plan_for
from runner_supervisor.private import FILE_MODE, ONLY_OWNER, open_private, remove_socket, write_private
from runner_supervisor.reception import Reception, reception
from runner_supervisor.reload import Reloader
from runner_supervisor.service.herald import Herald, News, Phase, engine_status
from runner_supervisor.service.manager import Manager
from runner_supervisor.settings import Settings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

OPEN_FILES = 65_536
"""As many open files as we ask for; two for each request at work."""

YOUNG_OBJECTS = 20_000
"""How many new objects there are before the garbage collector looks for cycles: requests leave none."""

NUMBERS = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}

END_SLACK_S = 5.0
"""What the end may take beyond the engine's grace period: KILL, the last log lines."""


def run(settings: Settings, calls: Calls, *, manager: Manager, listener: socket.socket | None) -> None:
    """Run the service until it is told to stop. What can be refused is refused before a build.

    Args:
        settings: how to run.
        calls: what is asked on the way.
        manager: who is told how it goes.
        listener: the socket to serve on, if somebody else listens for us; its address goes before the settings'.

    Raises:
        RunnerError: the service cannot start, or its first engine never became ready.
    """
    os.umask(ONLY_OWNER)
    if listener:
        settings = _served_at(listener, settings)
        load = calls.load
        calls = replace(calls, load=lambda: _served_at(listener, load()))
        logger.info("listening on what the service manager handed over: %s:%d", settings.host, settings.port)
    for notice in settings.notices:
        logger.info("%s", notice)
    check_model(model_of(settings))
    given_keys = settings.given_keys()
    certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
    layout = Layout(settings.state_dir)
    layout.create()
    _allow_open_files()
    with _only_one(layout), contextlib.ExitStack() as stack:
        stack.enter_context(log_to(layout.front_log))
        for orphan in sweep_orphans(layout.run_dir):
            logger.warning("ended llama-server %d, left behind by a supervisor that died", orphan)
        tcp = stack.enter_context(listener or bind_tcp(settings.host, settings.port))
        control = stack.enter_context(bind_unix(layout.control_socket))
        stack.callback(layout.control_socket.unlink, missing_ok=True)
        tracer = stack.enter_context(tracing(settings))
        plan = plan_for(settings, find_binary=calls.find_binary, tell=calls.on_sizing)
        keys = KeyStore(layout.keys, given=given_keys)
        stack.callback(keys.close)
        new_key = None
        if not (settings.on_loopback or settings.insecure_no_auth or keys.locked_down):
            new_key = keys.create("first start", scopes=(Scope.INFERENCE, Scope.METRICS)).secret
        if settings.insecure_no_auth:
            _warn_of_open_doors(settings, keys)
        for stale in layout.run_dir.glob("engine-*.sock"):
            remove_socket(stale)
        log = EngineLog(layout.engine_log)
        log.listeners.append(log_engine_line)
        also_log(requests=settings.log_requests, engine=settings.log_engine)
        stack.callback(log.close)
        tail = stack.enter_context(tailing(log))
        behind = stack.enter_context(reception(settings, layout, keys, certificate, tracer))

        async def serve() -> None:
            service = Service(
                plan,
                layout=layout,
                log=log,
                tail=tail,
                keys=keys,
                reception=behind,
                new_key=new_key,
                calls=calls,
                manager=manager,
                kept_open=listener is not None,
            )
            await service.run(tcp=tcp, control=control, certificate=certificate)

        uvloop.run(serve())


def _served_at(listener: socket.socket, settings: Settings) -> Settings:
    """The settings as they are true of somebody else's listener: whether keys are needed depends on its address."""
    host, port = listener.getsockname()[:2]
    return settings.model_copy(update={"host": host, "port": port})


def log_engine_line(line: str) -> None:
    """Hand one line of llama-server's to its logger."""
    parsed = parse(line)
    logging.getLogger(ENGINE).log(NUMBERS[parsed.level], "%s", parsed.text)


def _warn_of_open_doors(settings: Settings, keys: KeyStore) -> None:
    if keys.locked_down:
        logger.warning("insecure_no_auth does nothing here: there are keys, and every request needs one")
    elif not settings.on_loopback:
        logger.warning(
            "INSECURE: whoever can reach %s may use it, without a key, as insecure_no_auth says; "
            "`runner-supervisor keys create` shuts it at once",
            settings.host,
        )


def _allow_open_files() -> None:
    """Raise the soft limit, which was made for `select` and is often 1024: every connection takes a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _only_one(layout: Layout) -> Iterator[None]:
    try:
        os.close(open_private(layout.lock))  # filelock may follow links to other files, or truncate them
        lock = filelock.FileLock(layout.lock, mode=FILE_MODE)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        try:
            holder = f"process {int(layout.supervisor_record.read_text())}"
        except (OSError, ValueError):
            holder = "another supervisor"
        raise AlreadyRunningError(
            f"{holder} runs on {layout.state_dir}; see `runner-supervisor status --state-dir {layout.state_dir}`, "
            "end it with `stop` in the same way, or name another folder with --state-dir"
        ) from None
    try:
        write_private(layout.supervisor_record, str(os.getpid()).encode())
        yield
    finally:
        layout.supervisor_record.unlink(missing_ok=True)
        lock.release()


class Service:
    """One run: engines, a front, and what happens between the first signal and the end."""

    def __init__(
        self,
        plan: Plan,
        *,
        layout: Layout,
        log: EngineLog,
        tail: LogTail,
        keys: KeyStore,
        reception: Reception,
        new_key: str | None,
        calls: Calls,
        manager: Manager,
        kept_open: bool,
    ) -> None:
        """Args beside the obvious: `kept_open`, whether somebody else goes on listening when we no longer do."""
        self._plan = plan
        self._manager = manager
        self._kept_open = kept_open
        self._layout = layout
        self._log = log
        self._tail = tail
        self._keys = keys
        self._reception = reception
        self._new_key = new_key
        self._calls = calls
        self._log_level = plan.settings.log_level
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._gave_up = asyncio.Event()
        self._served = asyncio.Event()
        self._engines = Succession(self._make_engine, plan.spec, plan.policy)
        self._engines.observers.append(self._on_transition)

    def _make_engine(self, spec: EngineSpec, policy: Policy, name: str, before: Machine | None) -> EngineSupervisor:
        place = Place(run_dir=self._layout.run_dir, reports=self._layout.reports, name=name)
        return EngineSupervisor(spec=spec, policy=policy, place=place, log=self._log, before=before)

    async def run(self, *, tcp: socket.socket, control: socket.socket, certificate: Certificate | None) -> None:
        """Serve until stopped; then drain, end the engine, close."""
        settings = self._plan.settings
        gate = Gate(self._keys, settings)
        front = Front(
            engines=self._engines,
            gate=gate,
            desk=self._reception.desk,
            tcp=tcp,
            control=control,
            certificate=certificate,
            settings=settings,
            changes=lambda: reloader,
            tail=self._tail,
            stop=self._ask_to_stop,
        )
        reloader = Reloader(
            settings=settings,
            engines=self._engines,
            front=front,
            load=self._calls.load,
            plan=self._plan_again,
            apply=lambda changed, keys: self._apply(changed, keys, front),
            tell=lambda: herald.look(),  # noqa: PLW0108  it is made below
        )
        herald = Herald(self._manager, lambda: self._news(front, reloader))
        self._engines.observers.append(lambda _: herald.look())
        self._listen_to_signals(reloader)
        owner = asyncio.create_task(self._engines.run(), name="engines")
        server = asyncio.create_task(front.serve(), name="front")
        greeter = asyncio.create_task(self._greet(front, gate), name="greeter")
        keeper = asyncio.create_task(self._reception.run(), name="reception")
        telling = asyncio.create_task(herald.run(), name="herald")
        self._engines.current.start()
        try:
            await _first(owner, server, keeper, telling, self._stop, self._gave_up)
            front.draining = True
            herald.look()
            if self._kept_open:
                front.stop_listening()
            await _unless(self._hurry, reloader.end())
            if self._gave_up.is_set():
                raise self._why()
            if not owner.done() and not server.done():
                await self._end(front, reloader.settings)
        finally:
            greeter.cancel()
            front.close()
            owner.cancel()
            await asyncio.wait({greeter, server, owner}, timeout=END_SLACK_S)
            keeper.cancel()
            telling.cancel()
            await asyncio.wait({keeper, telling}, timeout=END_SLACK_S)
        for task in (owner, server, greeter, keeper, telling):
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    def _news(self, front: Front, reloader: Reloader) -> News:
        """How it goes, for the service manager."""
        engine, change = self._engines.current, reloader.last
        if front.draining:
            return News(Phase.STOPPING, f"stopping: {front.metrics.in_flight()} requests in flight")
        if self._served.is_set() and change and change.progress is Progress.RUNNING:
            return News(Phase.RELOADING, f"{change.what}: {change.detail or 'under way'}")
        phase = Phase.READY if self._served.is_set() else Phase.STARTING
        status = engine_status(
            engine.machine,
            model=engine.spec.served_as,
            held_bytes=engine.rss_bytes,
            needed_bytes=engine.spec.needed_bytes,
        )
        return News(phase, status)

    def _listen_to_signals(self, reloader: Reloader) -> None:
        """TERM and INT stop; HUP reloads, as for any service, unless it says that our terminal has closed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._ask_to_stop if sys.stderr.isatty() else reloader.reload_soon)

    def _plan_again(self, settings: Settings, before: Predecessor) -> Plan:
        find = self._calls.present_binary
        return plan_for(settings, find_binary=find, tell=lambda _: None, before=before)

    def _apply(self, settings: Settings, keys: list[str], front: Front) -> None:
        """Put into force what needs no new engine."""
        if settings.log_level != self._log_level:  # else what was said since, by `log-level`, stays
            self._log_level = settings.log_level
            set_level(settings.log_level)
        also_log(requests=settings.log_requests, engine=settings.log_engine)
        self._keys.give(keys)
        front.apply(settings)

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _on_transition(self, transition: Transition) -> None:
        machine = transition.machine
        if machine.state is State.READY:
            self._served.set()
        for_good = machine.state is State.FAILED and not machine.ever_ready and machine.retry_at is None
        if for_good and self._engines.made == 1:
            self._gave_up.set()

    def _why(self) -> EngineError | ConfigError:
        death = self._engines.current.machine.last_death
        if death is None:
            return EngineError("the engine gave up")
        message = f"{describe(death)}; the whole log is {self._log.path}"
        return ConfigError(message) if death.cause is Cause.CONFIG else EngineError(message)

    async def _greet(self, front: Front, gate: Gate) -> None:
        await self._served.wait()
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS)
        spec = self._engines.current.spec
        self._calls.on_ready(
            Ready(
                address=front.address,
                model=spec.model,
                backend=spec.binary.backend,
                log=self._log.path,
                needs_key=not gate.open,
                new_key=self._new_key,
                given_in=self._plan.settings.keys_given_in,
                state_dir=self._layout.state_dir,
                host=self._plan.settings.host,
                open_to_all=gate.open and not self._plan.settings.on_loopback,
                certificate=self._plan.settings.tls_cert,
            )
        )

    async def _end(self, front: Front, settings: Settings) -> None:
        timeout_s = settings.drain_timeout_s
        logger.info("stopping: requests in flight may finish for up to %g s", timeout_s)
        left = await _unless(self._hurry, front.drain(timeout_s))
        if left:
            logger.warning("%d requests were still in flight and are cut off", left)
        limit_s = settings.stop_grace_s + END_SLACK_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_unless(self._hurry, self._engines.stop()), limit_s)


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
