"""Changes while running: settings read again, a new engine beside the old one, and back if it comes to nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TypeVar

from runner_supervisor.core.states import State
from runner_supervisor.engine.succession import Succession
from runner_supervisor.engine.supervisor import EngineSupervisor, describe
from runner_supervisor.errors import ConfigError, EngineError, RunnerError
from runner_supervisor.front.changes import Change, Progress
from runner_supervisor.front.server import Front
from runner_supervisor.planning import NOBODY, Plan, Predecessor
from runner_supervisor.settings import Settings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

FIXED = (
    "host", "port", "tls_cert", "tls_key", "state_dir", "audit", "log_content", "content_log", "limits_url",
    "traces_url", "traces_sample",
)  # fmt: skip
"""Settings that a running supervisor cannot change: where it is reached, and where it writes things down."""

SLACK_S = 5.0


class Reloader:
    """Carries out one change at a time, on the loop; what blocks runs in a thread."""

    def __init__(
        self,
        *,
        settings: Settings,
        engines: Succession,
        front: Front,
        load: Callable[[], Settings],
        plan: Callable[[Settings, Predecessor], Plan],
        apply: Callable[[Settings, list[str]], None],
        tell: Callable[[], None],
    ) -> None:
        """Args beside the obvious: `load` reads the settings again; `plan` says what they lead to, given the engine
        that serves now; `apply` puts into force what needs no new engine, and the keys given in the settings;
        `tell` is called when `last` has changed.
        """
        self.settings = settings
        self.last: Change | None = None
        self._tell = tell
        self._engines = engines
        self._front = front
        self._load = load
        self._plan = plan
        self._apply = apply
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._ending = False

    def reload(self) -> bool:
        """Read the settings again and act on what has changed. False: another change is under way."""
        return self._begin("reload")

    def restart(self) -> bool:
        """Put a new process in the place of the engine's, with the same settings. False: as for `reload`."""
        return self._begin("restart")

    def reload_soon(self) -> None:
        """Reload, after what is under way if there is something: a signal cannot be refused."""
        self._again = not self.reload() and not self._ending

    async def end(self) -> None:
        """Give up what is under way, and begin nothing more: the service ends, and with it all engines."""
        self._ending = True
        if self._task and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    def _begin(self, what: str) -> bool:
        if self._ending or (self._task and not self._task.done()):
            return False
        number = self.last.number + 1 if self.last else 1
        self.last = Change(number, what, time.time(), Progress.RUNNING, "")
        self._tell()
        self._task = asyncio.create_task(self._run(self.last), name=what)
        self._task.add_done_callback(self._done)
        return True

    def _done(self, _task: asyncio.Task[None]) -> None:
        if self._again:
            self._task = None
            self.reload_soon()

    async def _run(self, change: Change) -> None:
        try:
            settings = self.settings if change.what == "restart" else await in_thread(self._load)
            detail = await self._change_to(settings, afresh=change.what == "restart")
            progress = Progress.DONE
        except RunnerError as error:
            detail, progress = str(error), Progress.FAILED
        except Exception:
            logger.exception("a %s failed", change.what)
            detail, progress = "an internal error; the log says more", Progress.FAILED
        self.last = Change(change.number, change.what, change.at, progress, detail)
        self._tell()
        level = logging.INFO if progress is Progress.DONE else logging.ERROR
        logger.log(level, "%s %s: %s", change.what, progress, detail)

    async def _change_to(self, settings: Settings, *, afresh: bool) -> str:
        for name in FIXED:
            if (new := getattr(settings, name)) != (old := getattr(self.settings, name)):
                raise ConfigError(f"{name} cannot change while running ({old} -> {new}); stop and start instead")
        keys = await in_thread(settings.given_keys)
        current = self._engines.current
        before = NOBODY
        if current.pid is not None:
            before = Predecessor(current.private_bytes, current.spec.needed_bytes, current.spec.gpu_bytes)
        plan = await in_thread(partial(self._plan, settings, before))
        if plan.spec == current.spec and not afresh and current.state is not State.FAILED:
            current.spec = plan.spec  # what follows from the memory that is free may be other than it was
            detail = "the engine goes on as it is"
        elif current.state is not State.READY:
            detail = await self._replace(plan)
        elif plan.fits_beside:
            detail = await self._change_beside(plan)
        else:
            detail = await self._change_in_turn(plan)
        changed = [name for name in Settings.model_fields if getattr(settings, name) != getattr(self.settings, name)]
        self.settings = settings
        self._apply(settings, keys)
        self._engines.current.use(plan.policy)
        return f"{detail}; changed: {', '.join(changed)}" if changed else detail

    async def _replace(self, plan: Plan) -> str:
        """The engine does not serve: there is nothing to keep."""
        old = self._engines.current
        new = self._engines.prepare(plan.spec, plan.policy)
        with self._front.between_engines():
            await self._retire(old)
            self._engines.promote(new)
            new.start()
            await new.wait_for(State.STARTING)
        if await new.wait_for(State.READY, State.BACKOFF, State.FAILED) is not State.READY:
            raise _failure(new, "there was no engine to go back to; it is tried again as after any death")
        return "a new engine serves"

    async def _change_beside(self, plan: Plan) -> str:
        old = self._engines.current
        new = self._engines.prepare(plan.spec, plan.policy)
        new.start()
        await new.wait_for(State.READY, State.BACKOFF, State.FAILED)
        if new.state is not State.READY:
            failure = _failure(new, "the old one goes on")
            await self._retire(new)
            raise failure
        self._engines.promote(new)
        self._say("the new engine serves; the old one may finish its requests")
        left = await self._front.left(self.settings.drain_timeout_s)
        await self._retire(old)
        return _outcome(left)

    async def _change_in_turn(self, plan: Plan) -> str:
        """Memory does not allow both: requests wait while one makes room for the other."""
        old = self._engines.current
        timeout_s = self.settings.drain_timeout_s
        self._say("memory does not allow two engines: one makes room for the other, and requests wait")
        with self._front.between_engines():
            left = await self._front.left(timeout_s)
            old.stop()
            await self._ended(old)
            new = self._engines.prepare(plan.spec, plan.policy)
            new.start()
            await new.wait_for(State.READY, State.BACKOFF, State.FAILED)
            if new.state is not State.READY:
                failure = _failure(new, "the old one was started again")
                await self._retire(new)
                old.start()
                await old.wait_for(State.READY, State.BACKOFF, State.FAILED)
                raise failure
            self._engines.promote(new)
            await self._retire(old)
        return _outcome(left)

    async def _ended(self, engine: EngineSupervisor) -> None:
        try:
            await asyncio.wait_for(engine.wait_for(State.STOPPED), self.settings.stop_grace_s + SLACK_S)
        except TimeoutError:
            engine.start()  # when it has ended after all
            raise EngineError("the old engine does not end, not even when it is killed") from None

    def _say(self, detail: str) -> None:
        """How far the change has come, for status and log."""
        if self.last:
            self.last = replace(self.last, detail=detail)
            self._tell()
        logger.info("%s", detail)

    async def _retire(self, engine: EngineSupervisor) -> None:
        await self._engines.retire(engine, timeout_s=self.settings.stop_grace_s + SLACK_S)


def _outcome(left: int) -> str:
    if not left:
        return "a new engine serves"
    return f"a new engine serves; requests cut off, as they took longer than drain_timeout_s: {left}"


async def in_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns, done in a thread that the end of the process does not wait for."""
    done: Future[Result] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  it is raised where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(done)


def _failure(engine: EngineSupervisor, then: str) -> EngineError:
    death = engine.machine.last_death
    return EngineError(f"{describe(death) if death else 'the new engine did not come up'}; {then}")
