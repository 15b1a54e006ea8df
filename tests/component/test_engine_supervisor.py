"""EngineSupervisor with a real child process that has fault flags."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from runner_supervisor.core.fitting import Rung
from runner_supervisor.core.lifecycle import Policy
from runner_supervisor.core.restart import Cause, RestartPolicy
from runner_supervisor.core.states import State
from runner_supervisor.engine.binary import EngineBinary
from runner_supervisor.engine.logs import EngineLog
from runner_supervisor.engine.process import Identity, record_identity, sweep_orphans
from runner_supervisor.engine.supervisor import EngineSpec, EngineSupervisor, Place, describe
from runner_supervisor.engine.watch import Traffic

pytestmark = pytest.mark.anyio

FAKE = Path(__file__).parents[1] / "fakes" / "fake_llama_server.py"
DEADLINE_S = 30
SOON = RestartPolicy(backoff_base_s=0.01, backoff_cap_s=0.05, breaker_deaths=4, cooldown_s=600)


@asynccontextmanager
async def supervised(
    folder: Path,
    *flags: str,
    policy: Policy | None = None,
    binary: Path | None = None,
    ladder: tuple[Rung, ...] = (),
    run_dir: Path | None = None,
) -> AsyncIterator[EngineSupervisor]:
    """An EngineSupervisor on the fake, asked to start; ended by force afterwards."""
    launcher = folder / "llama-server"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    launcher.chmod(0o755)
    log = EngineLog(folder / "engine.log")
    engine = EngineSupervisor(
        spec=EngineSpec(
            binary=EngineBinary(path=binary or launcher, backend="fake", commit="fake"),
            model=Path("model.gguf"),
            args=flags,
            ladder=ladder,
        ),
        policy=policy or Policy(restart=SOON),
        place=Place(run_dir=run_dir or folder, reports=folder),
        log=log,
    )
    owner = asyncio.create_task(engine.run())
    engine.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield engine
    finally:
        owner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await owner
        log.close()


def process_of(engine: EngineSupervisor) -> psutil.Process:
    assert engine.pid is not None
    return psutil.Process(engine.pid)


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(DEADLINE_S):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_child_becomes_ready_and_stops_when_asked(short_dir: Path) -> None:
    async with supervised(short_dir) as engine:
        await engine.wait_for(State.READY)
        pid = process_of(engine).pid
        assert os.getpgid(pid) == pid
        engine.stop()
        await engine.wait_for(State.STOPPED)
        assert not psutil.pid_exists(pid)
        assert not engine.socket.exists()
        assert not (short_dir / "engine-1.json").exists()


async def test_a_child_that_ignores_term_is_killed_after_the_grace_period(short_dir: Path) -> None:
    policy = Policy(stop_grace_s=0.2, restart=SOON)
    async with supervised(short_dir, "--ignore-term", policy=policy) as engine:
        await engine.wait_for(State.READY)
        pid = process_of(engine).pid
        engine.stop()
        await engine.wait_for(State.STOPPED)
        assert not psutil.pid_exists(pid)


async def test_what_the_child_forked_goes_with_it(short_dir: Path) -> None:
    async with supervised(short_dir, "--fork") as engine:
        await engine.wait_for(State.READY)
        grandchild = process_of(engine).children()[0].pid
        engine.stop()
        await engine.wait_for(State.STOPPED)
        await gone(grandchild)


async def test_a_stop_while_loading_is_carried_out(short_dir: Path) -> None:
    async with supervised(short_dir, "--never-ready") as engine:
        await engine.wait_for(State.LOADING)
        engine.stop()
        assert await engine.wait_for(State.STOPPED) is State.STOPPED


async def test_a_load_that_gets_nowhere_is_ended_and_tried_again(short_dir: Path) -> None:
    policy = Policy(load_timeout_s=0.5, restart=SOON)
    async with supervised(short_dir, "--never-ready", policy=policy) as engine:
        await engine.wait_for(State.BACKOFF)
        death = engine.machine.last_death
        assert death is not None
        assert death.cause is Cause.LOAD_TIMEOUT
        assert describe(death).startswith("llama-server did not get on with its load and was ended: no sign of")
        await engine.wait_for(State.LOADING)
        assert engine.machine.generation == 2


async def test_a_load_that_gets_on_may_take_longer_than_its_limit(short_dir: Path) -> None:
    policy = Policy(load_timeout_s=0.4, restart=SOON)
    async with supervised(short_dir, "--load-lines", "30", policy=policy) as engine:
        await engine.wait_for(State.READY, State.BACKOFF, State.FAILED)
        assert engine.state is State.READY
        assert engine.machine.generation == 1
        assert len(engine.log.tail(100)) == 1 + 30


def first_report(folder: Path) -> tuple[Path, str]:
    """The oldest report on an engine that hung."""
    path = min(folder.glob("stall-*.txt"))
    return path, path.read_text()


async def test_an_engine_that_answers_health_alone_is_found_reported_and_healed(short_dir: Path) -> None:
    policy = Policy(stall_timeout_s=4.5, stop_grace_s=0.2, restart=SOON)  # longer than a question stays open
    async with supervised(short_dir, "--hang-after", "1", "--ignore-term", policy=policy) as engine:
        await engine.wait_for(State.READY)
        await engine.wait_for(State.STOPPING)
        await engine.wait_for(State.BACKOFF)
        death = engine.machine.last_death
        assert death is not None
        assert death.cause is Cause.STALL
        await engine.wait_for(State.READY)
    report, text = first_report(short_dir)
    assert str(report) in death.detail
    assert "slots: no answer" in text


async def test_an_engine_with_work_and_no_progress_is_found_and_one_with_progress_is_left_alone(
    short_dir: Path,
) -> None:
    policy = Policy(stall_timeout_s=0.5, restart=SOON)
    pieces = itertools.count()
    async with supervised(short_dir, policy=policy) as engine:
        engine.traffic = lambda: Traffic(busy=1, received=next(pieces))
        await engine.wait_for(State.READY)
        while next(pieces) < 10:
            await asyncio.sleep(0.01)
        assert engine.state is State.READY
        engine.traffic = lambda: Traffic(busy=1, received=-1)
        await engine.wait_for(State.BACKOFF)
        assert engine.machine.last_death is not None
        assert engine.machine.last_death.cause is Cause.STALL


async def test_an_engine_whose_socket_has_gone_is_healed_long_before_it_counts_as_hung(short_dir: Path) -> None:
    async with supervised(short_dir) as engine:
        await engine.wait_for(State.READY)
        engine.socket.unlink()
        await engine.wait_for(State.BACKOFF)
        assert engine.machine.last_death is not None
        assert "nobody listens on its socket" in engine.machine.last_death.detail
        await engine.wait_for(State.READY)


async def test_an_engine_out_of_memory_comes_back_with_less(short_dir: Path) -> None:
    rungs = (Rung(("--cache-ram", "0"), "cache-ram 8192 -> 0"), Rung(("--parallel", "1"), "parallel 4 -> 1"))
    flags = ("--oom-unless", "parallel")
    async with supervised(short_dir, *flags, ladder=rungs) as engine:
        await engine.wait_for(State.READY)
        assert engine.machine.last_death is not None
        assert engine.machine.last_death.cause is Cause.OOM
        assert engine.lowered == ["cache-ram 8192 -> 0", "parallel 4 -> 1"]
        assert engine.machine.generation == 3
        assert "--parallel" in process_of(engine).cmdline()


async def test_exit_code_1_at_the_first_start_is_final_and_quotes_the_child(short_dir: Path) -> None:
    async with supervised(short_dir, "--exit-code", "1") as engine:
        await engine.wait_for(State.FAILED)
        assert engine.retry_in_s is None
        death = engine.machine.last_death
        assert death is not None
        assert describe(death) == (
            "llama-server ended with exit code 1 (config); it said: srv  load_model: the fake was told to fail"
        )


async def test_a_crash_loop_opens_the_breaker_and_a_start_closes_it(short_dir: Path) -> None:
    fault = short_dir / "fault"
    fault.touch()
    async with supervised(short_dir, "--fail-while", str(fault)) as engine:
        await engine.wait_for(State.FAILED)
        assert engine.machine.generation == SOON.breaker_deaths
        assert engine.retry_in_s is not None
        fault.unlink()
        engine.start()
        await engine.wait_for(State.READY)


async def test_a_binary_that_cannot_run_is_named(short_dir: Path) -> None:
    async with supervised(short_dir, binary=short_dir / "missing") as engine:
        await engine.wait_for(State.FAILED)
        death = engine.machine.last_death
        assert death is not None
        assert describe(death) == f"cannot run {short_dir / 'missing'}: No such file or directory"


async def test_each_generation_listens_on_a_socket_of_its_own(short_dir: Path) -> None:
    async with supervised(short_dir) as engine:
        await engine.wait_for(State.READY)
        first = engine.socket
        process_of(engine).kill()
        await engine.wait_for(State.BACKOFF, State.STARTING)
        await engine.wait_for(State.READY)
        assert engine.socket != first
        assert not first.exists()
        assert engine.machine.restarts == 1


async def test_the_sweep_ends_a_recorded_child_and_only_that(short_dir: Path) -> None:
    async with supervised(short_dir) as engine:
        await engine.wait_for(State.READY)
        record = short_dir / "engine-1.json"
        recorded = record.read_text()
        pid = process_of(engine).pid

        for name in ("create_time", "pid"):
            record.write_text(recorded.replace(f'"{name}": ', f'"{name}": 1'))
            assert sweep_orphans(short_dir) == []
        record.write_text(recorded.replace(".sock", ".sick"))
        assert sweep_orphans(short_dir) == []
        record.write_text(recorded.replace("python", "snake"))
        assert sweep_orphans(short_dir) == []
        assert psutil.pid_exists(pid)
        assert not record.exists()

        record.write_text(recorded)
        assert sweep_orphans(short_dir) == [pid]
        await gone(pid)
        async with asyncio.timeout(DEADLINE_S):
            while engine.machine.last_death is None:
                await asyncio.sleep(0.01)


async def test_the_sweep_ends_what_a_script_that_has_gone_left_behind(short_dir: Path) -> None:
    script = short_dir / "script"
    script.write_text(f'#!/bin/sh\n{sys.executable} {FAKE} "$@"\nexit 0\n')
    script.chmod(0o755)
    socket = str(short_dir / "engine-1-1.sock")
    shell = subprocess.Popen([script, "--host", socket], start_new_session=True)  # noqa: ASYNC220
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (left := psutil.Process(shell.pid).children()):
                await asyncio.sleep(0.01)
        made = psutil.Process(shell.pid).create_time()
        identity = Identity(shell.pid, create_time=made, executable="/bin/sh", socket=socket)
        record_identity(short_dir / "engine-1.json", identity)
        shell.kill()
        shell.wait()
        assert await asyncio.to_thread(sweep_orphans, short_dir) == [shell.pid]
        await gone(left[0].pid)
    finally:
        shell.kill()
        shell.wait()


async def test_a_start_after_a_stop_leaves_no_old_socket(short_dir: Path) -> None:
    async with supervised(short_dir) as engine:
        await engine.wait_for(State.READY)
        first = engine.socket
        engine.stop()
        engine.start()
        await engine.wait_for(State.STARTING)
        await engine.wait_for(State.READY)
        assert engine.socket != first
        assert engine.socket.exists()
        assert not first.exists()


async def test_a_run_folder_that_was_cleaned_away_is_made_again(short_dir: Path) -> None:
    run_dir = short_dir / "run"
    run_dir.mkdir()
    async with supervised(short_dir, run_dir=run_dir) as engine:
        await engine.wait_for(State.READY)
        shutil.rmtree(run_dir)
        process_of(engine).kill()
        await engine.wait_for(State.BACKOFF)
        await engine.wait_for(State.READY)


async def test_the_last_words_are_those_of_the_run_that_died(short_dir: Path) -> None:
    async with supervised(short_dir) as engine:
        await engine.wait_for(State.READY)
        process_of(engine).kill()
        await engine.wait_for(State.BACKOFF)
        await engine.wait_for(State.READY)
        engine.log.add("0.00.001.000 E srv  send_error: of the second run")
        death = engine.machine.last_death
        assert death is not None
        assert describe(death) == "llama-server ended with signal 9 (crash)"


async def test_cancelling_the_owner_kills_the_child(short_dir: Path) -> None:
    async with supervised(short_dir) as engine:
        await engine.wait_for(State.READY)
        pid = process_of(engine).pid
    await gone(pid)
