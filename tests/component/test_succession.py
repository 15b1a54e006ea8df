"""One engine after another, on real children with fault flags: whatever comes in between, one serves in the end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.component.test_engine_supervisor import DEADLINE_S, FAKE, SOON, gone

from runner_supervisor.core.lifecycle import Machine, Policy
from runner_supervisor.core.states import State
from runner_supervisor.engine.binary import EngineBinary
from runner_supervisor.engine.logs import EngineLog
from runner_supervisor.engine.succession import Succession
from runner_supervisor.engine.supervisor import EngineSpec, EngineSupervisor, Place, Transition
from runner_supervisor.errors import ModelError, RunnerError
from runner_supervisor.front.changes import Change, Progress
from runner_supervisor.planning import Plan, Predecessor
from runner_supervisor.reload import Reloader
from runner_supervisor.settings import Settings

pytestmark = pytest.mark.anyio


class Waiting:
    """Stands in for the front, which has no requests."""

    def __init__(self) -> None:
        self.between = 0

    @contextlib.contextmanager
    def between_engines(self):  # type: ignore[no-untyped-def]
        self.between += 1
        yield

    async def left(self, timeout_s: float) -> int:  # noqa: ARG002
        return 0


@dataclass
class Here:
    """A succession on the fake, a reloader, and what it is to be told."""

    engines: Succession
    reloader: Reloader
    front: Waiting
    spec: Callable[..., EngineSpec]
    plan: Callable[[EngineSpec | RunnerError], None]
    heard: list[State]
    applied: list[Settings]

    async def change(self, *, restart: bool = False) -> Change:
        """Reload or restart, and what came of it."""
        assert self.reloader.restart() if restart else self.reloader.reload()
        while self.last.progress is Progress.RUNNING:
            await asyncio.sleep(0.01)
        return self.last

    @property
    def last(self) -> Change:
        assert self.reloader.last
        return self.reloader.last


@asynccontextmanager
async def succession(folder: Path, *flags: str, beside: bool = True) -> AsyncIterator[Here]:
    launcher = folder / "llama-server"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    launcher.chmod(0o755)
    log = EngineLog(folder / "engine.log")
    policy = Policy(stop_grace_s=1, restart=SOON)
    settings = Settings(drain_timeout_s=1, stop_grace_s=1)
    wanted: list[EngineSpec | RunnerError] = []
    heard: list[State] = []
    applied: list[Settings] = []

    def spec(*args: str) -> EngineSpec:
        binary = EngineBinary(path=launcher, backend="fake", commit="fake")
        return EngineSpec(binary=binary, model=Path("model.gguf"), args=args)

    def make(spec: EngineSpec, policy: Policy, name: str, before: Machine | None) -> EngineSupervisor:
        place = Place(run_dir=folder, reports=folder, name=name)
        return EngineSupervisor(spec=spec, policy=policy, place=place, log=log, before=before)

    def plan(settings: Settings, _: Predecessor) -> Plan:
        if isinstance(wanted[-1], RunnerError):
            raise wanted[-1]
        return Plan(settings=settings, spec=wanted[-1], policy=policy, fits_beside=beside)

    wanted.append(spec(*flags))
    engines = Succession(make, spec(*flags), policy)
    engines.observers.append(lambda transition: heard.append(transition.machine.state))
    front = Waiting()
    reloader = Reloader(
        settings=settings,
        engines=engines,
        front=front,  # type: ignore[arg-type]
        load=lambda: settings,
        plan=plan,
        apply=lambda settings, _: applied.append(settings),
        tell=lambda: None,
    )
    owner = asyncio.create_task(engines.run())
    engines.current.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield Here(engines, reloader, front, spec, wanted.append, heard, applied)
    finally:
        await reloader.end()
        owner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await owner
        log.close()


def pids(here: Here) -> list[int]:
    """The children there are."""
    return [
        child.pid
        for child in psutil.Process().children()
        if str(here.engines.current.place.run_dir) in " ".join(child.cmdline())
    ]


def files(folder: Path) -> list[str]:
    """Sockets and records of engines."""
    return sorted(path.name for path in folder.glob("engine-*"))


async def test_a_new_engine_takes_over_and_the_old_one_ends(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        old = here.engines.current.pid
        assert old
        here.plan(here.spec("--new"))
        done = await here.change()
        assert (done.progress, done.detail) == (Progress.DONE, "a new engine serves")
        assert here.engines.current.state is State.READY
        assert "--new" in psutil.Process(pids(here)[0]).cmdline()
        assert not psutil.pid_exists(old)
        assert here.heard == [State.STARTING, State.READY, State.READY]
        assert files(short_dir) == ["engine-2-1.sock", "engine-2.json"]


async def test_the_same_spec_needs_no_new_engine_but_a_restart_makes_one(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        old = here.engines.current.pid
        assert (await here.change()).detail == "the engine goes on as it is"
        assert here.engines.current.pid == old
        assert (await here.change(restart=True)).detail == "a new engine serves"
        assert here.engines.current.pid != old


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("fault", [("--exit-code", "1"), ("--exit-code", "3")])
async def test_a_new_engine_that_does_not_come_up_leaves_the_old_one_serving(
    short_dir: Path, fault: tuple[str, ...], beside: bool
) -> None:
    async with succession(short_dir, beside=beside) as here:
        await here.engines.current.wait_for(State.READY)
        serving, old = here.engines.current, here.engines.current.pid
        here.plan(here.spec(*fault))
        failed = await here.change()
        assert failed.progress is Progress.FAILED
        assert f"exit code {fault[1]}" in failed.detail
        assert here.engines.current is serving
        assert serving.state is State.READY
        assert (serving.pid == old) is beside
        assert here.front.between == (not beside)
        assert here.applied == []
        assert pids(here) == [serving.pid]


async def test_a_plan_that_cannot_be_made_changes_nothing(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        old = here.engines.current.pid
        here.plan(ModelError("no model file at x"))
        failed = await here.change()
        assert (failed.progress, failed.detail) == (Progress.FAILED, "no model file at x")
        assert here.engines.current.pid == old


async def test_one_change_at_a_time(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        here.plan(here.spec("--never-ready"))
        assert here.reloader.reload()
        assert not here.reloader.reload()
        assert not here.reloader.restart()


async def test_a_hangup_during_a_change_is_not_lost(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        here.plan(here.spec("--load-lines", "3"))
        assert here.reloader.reload()
        here.reloader.reload_soon()
        here.reloader.reload_soon()
        while (here.last.number, here.last.progress) != (2, Progress.DONE):
            await asyncio.sleep(0.01)
        assert here.last.detail == "the engine goes on as it is"


async def test_after_the_end_nothing_is_begun(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        await here.reloader.end()
        assert not here.reloader.restart()
        here.reloader.reload_soon()
        assert here.reloader.last is None


async def test_a_stop_in_the_middle_of_a_reload_ends_both_engines(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        here.plan(here.spec("--never-ready"))
        assert here.reloader.reload()
        while len(pids(here)) < 2:
            await asyncio.sleep(0.01)
        both = pids(here)
        await here.reloader.end()
        await here.engines.stop()
        for pid in both:
            await gone(pid)


async def test_the_old_engines_death_in_the_middle_of_a_reload_does_no_harm(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        here.plan(here.spec("--load-lines", "10"))
        assert here.reloader.reload()
        while len(pids(here)) < 2:
            await asyncio.sleep(0.01)
        assert here.engines.current.pid
        psutil.Process(here.engines.current.pid).kill()
        while here.last.progress is Progress.RUNNING:
            await asyncio.sleep(0.01)
        assert here.last.progress is Progress.DONE
        assert "--load-lines" in psutil.Process(pids(here)[0]).cmdline()
        assert len(pids(here)) == 1


async def test_a_restart_ends_a_crash_loops_wait(short_dir: Path) -> None:
    fault = short_dir / "fault"
    async with succession(short_dir, "--fail-while", str(fault)) as here:
        await here.engines.current.wait_for(State.READY)
        fault.touch()
        assert here.engines.current.pid
        psutil.Process(here.engines.current.pid).kill()
        await here.engines.current.wait_for(State.FAILED)
        fault.unlink()
        assert (await here.change(restart=True)).progress is Progress.DONE
        assert here.engines.current.state is State.READY


async def test_a_transition_of_an_engine_that_does_not_serve_is_not_heard(short_dir: Path) -> None:
    async with succession(short_dir) as here:
        await here.engines.current.wait_for(State.READY)
        heard: list[Transition] = []
        here.engines.observers.append(heard.append)
        other = here.engines.prepare(here.spec("--never-ready"), Policy())
        other.start()
        await other.wait_for(State.LOADING)
        await here.engines.retire(other, timeout_s=5)
        assert heard == []
