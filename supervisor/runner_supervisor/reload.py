"""Changes while running: settings read again, a new engine beside the old one, and back if it comes to nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from runner_supervisor.core.states import State
from runner_supervisor.engine.succession import Succession
from runner_supervisor.engine.supervisor import EngineSupervisor, describe
from runner_supervisor.errors import ConfigError, EngineError, RunnerError
from runner_supervisor.front.changes import Change, Progress
from runner_supervisor.front.server import Front
from runner_supervisor.planning import Plan, Predecessor
from runner_supervisor.settings import Settings

logger = logging.getLogger(__name__)

FIXED = ("host", "port", "state_dir")
"""Settings that a running supervisor cannot change: they are where it is reached."""

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
        apply: Callable[[Settings], None],
    ) -> None:
        """Args beside the obvious: `load` reads the settings again; `plan` says what they lead to, given the engine
        that serves now; `apply` puts into force what needs no new engine.
        """
        self.settings = settings
        self.last: Change | None = None
        self._engines = engines
        self._front = front
        self._load = load
        self._plan = plan
        self._apply = apply
        self._task: asyncio.Task[None] | None = None

    def reload(self) -> bool:
        """Read the settings again and act on what has changed. False: another change is under way."""
        return self._begin("reload")

    def restart(self) -> bool:
        """Put a new process in the place of the engine's, with the same settings. False: as for `reload`."""
        return self._begin("restart")

    async def cancel(self) -> None:
        """Give up what is under way: the service ends."""
        if self._task and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    def _begin(self, what: str) -> bool:
        if self._task and not self._task.done():
            logger.warning("a %s was asked for, but another change is under way", what)
            return False
        number = self.last.number + 1 if self.last else 1
        self.last = Change(number, what, time.time(), Progress.RUNNING, "")
        self._task = asyncio.create_task(self._run(self.last), name=what)
        return True

    async def _run(self, change: Change) -> None:
        try:
            settings = self.settings if change.what == "restart" else await asyncio.to_thread(self._load)
            detail = await self._change_to(settings, afresh=change.what == "restart")
            progress = Progress.DONE
        except RunnerError as error:
            detail, progress = str(error), Progress.FAILED
        except Exception:
            logger.exception("a %s failed", change.what)
            detail, progress = "an internal error; the log says more", Progress.FAILED
        self.last = Change(change.number, change.what, change.at, progress, detail)
        level = logging.INFO if progress is Progress.DONE else logging.ERROR
        logger.log(level, "%s %s: %s", change.what, progress, detail)

    async def _change_to(self, settings: Settings, *, afresh: bool) -> str:
        for name in FIXED:
            if (new := getattr(settings, name)) != (old := getattr(self.settings, name)):
                raise ConfigError(f"{name} cannot change while running ({old} -> {new}); stop and start instead")
        current = self._engines.current
        before = Predecessor(current.rss_bytes, current.spec.needed_bytes, current.spec.gpu_bytes)
        plan = await asyncio.to_thread(self._plan, settings, before)
        if plan.spec == current.spec and not afresh:
            detail = "the engine goes on as it is"
        elif current.state is not State.READY:
            detail = await self._replace(plan)
        elif plan.fits_beside:
            detail = await self._change_beside(plan)
        else:
            detail = await self._change_in_turn(plan)
        changed = [name for name in Settings.model_fields if getattr(settings, name) != getattr(self.settings, name)]
        self.settings = settings
        self._apply(settings)
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
        if await new.wait_for(State.READY, State.FAILED) is State.FAILED:
            raise _failure(new, "there was no engine to go back to")
        return "a new engine serves"

    async def _change_beside(self, plan: Plan) -> str:
        old = self._engines.current
        new = self._engines.prepare(plan.spec, plan.policy)
        new.start()
        came_up = False
        try:
            came_up = await new.wait_for(State.READY, State.BACKOFF, State.FAILED) is State.READY
        finally:
            if not came_up:
                await self._retire(new)
        if not came_up:
            raise _failure(new, "the old one goes on")
        self._engines.promote(new)
        left = await self._front.left(self.settings.drain_timeout_s)
        await self._retire(old)
        return "a new engine serves" + (f"; {left} requests were cut off" if left else "")

    async def _change_in_turn(self, plan: Plan) -> str:
        """Memory does not allow both: requests wait while one makes room for the other."""
        old = self._engines.current
        timeout_s = self.settings.drain_timeout_s
        logger.info("memory does not allow two engines: one engine makes room for the other, and requests wait")
        with self._front.between_engines():
            left = await self._front.left(timeout_s)
            old.stop()
            await old.wait_for(State.STOPPED)
            new = self._engines.prepare(plan.spec, plan.policy)
            new.start()
            if await new.wait_for(State.READY, State.BACKOFF, State.FAILED) is not State.READY:
                failure = _failure(new, "the old one was started again")
                await self._retire(new)
                old.start()
                await old.wait_for(State.READY, State.FAILED)
                raise failure
            self._engines.promote(new)
            await self._retire(old)
        return "a new engine serves" + (f"; {left} requests were cut off" if left else "")

    async def _retire(self, engine: EngineSupervisor) -> None:
        await self._engines.retire(engine, timeout_s=self.settings.stop_grace_s + SLACK_S)


def _failure(engine: EngineSupervisor, then: str) -> EngineError:
    death = engine.machine.last_death
    return EngineError(f"{describe(death) if death else 'the new engine did not come up'}; {then}")
