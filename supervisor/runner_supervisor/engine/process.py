"""One child process in a group of its own: made, watched, ended, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import psutil

from runner_supervisor.core.restart import Exit
from runner_supervisor.engine.job import Job
from runner_supervisor.engine.logs import LinePump, RunLog
from runner_supervisor.private import write_private

logger = logging.getLogger(__name__)

LAST_LINES_S = 2.0
SWEEP_S = 5.0

OOM_SCORE = 500
"""Added to the child's badness, so that the kernel, out of memory, takes it and not us (proc(5), oom_score_adj)."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Identity:
    """What proves that a pid is still the child we made: when it was created, what it runs, and the socket in its
    command line.

    `create_time` is in seconds since the epoch.
    """

    pid: int
    create_time: float
    executable: str
    socket: str


class Child:
    """A running llama-server. `on_exit` is called once, on the loop, when it has ended and its log is read."""

    def __init__(self, process: subprocess.Popen[bytes], *, log: RunLog, on_exit: Callable[[Exit], None]) -> None:
        self._process = process
        self._job = _job_of(process)
        self._log = log
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self.pid = process.pid
        self._watch = self._loop.create_task(self._watch_until_exit())

    @classmethod
    def spawn(
        cls,
        argv: list[str],
        *,
        environment: dict[str, str],
        log: RunLog,
        on_exit: Callable[[Exit], None],
    ) -> Child:
        """Start `argv` in a session, and so a process group, of its own.

        On Linux the kernel kills it when the calling thread (the loop's, which lives as long as we do) dies.

        Raises:
            OSError: the executable is missing or cannot be run.
        """
        process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509
        )
        with contextlib.suppress(OSError):  # it may have gone already; elsewhere there is no such file
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(OOM_SCORE))
        return cls(process, log=log, on_exit=on_exit)

    @cached_property
    def _figures(self) -> psutil.Process:
        """Where to read what it uses.

        Raises:
            psutil.Error: it has gone, and nobody looked before.
        """
        return psutil.Process(self.pid)

    def identity(self, socket: Path) -> Identity:
        """Who this is, for the orphan sweep of a later start."""
        try:
            process = psutil.Process(self.pid)
            created, executable = process.create_time(), process.exe()
        except psutil.Error:
            created, executable = 0.0, ""  # it has gone already: nothing to sweep, and this matches nothing
        return Identity(self.pid, create_time=created, executable=executable, socket=str(socket))

    def cpu_s(self, *, main_thread: bool) -> float:
        """Processor time used so far, in seconds, by the main thread alone where that can be told (Linux)."""
        if main_thread and sys.platform == "linux":
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = Path(f"/proc/{self.pid}/task/{self.pid}/stat").read_text()
                user, system = stat.rpartition(")")[2].split()[11:13]  # proc(5): utime, stime
                return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        try:
            times = self._figures.cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    @property
    def private_bytes(self) -> int:
        """Resident memory that no file backs, and so is free when it has gone, in bytes; all where not known."""
        try:
            memory = self._figures.memory_info()
        except psutil.Error:
            return 0
        return int(memory.rss - getattr(memory, "shared", 0))

    @property
    def rss_bytes(self) -> int:
        """Resident memory, in bytes; 0 once it has gone."""
        try:
            return int(self._figures.memory_info().rss)
        except psutil.Error:
            return 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group. A child that was already reaped is left alone."""
        if self._process.returncode is not None:
            return
        if self._job:
            self._job.end()
        else:
            _signal_group(self.pid, number)

    async def wait(self) -> None:
        """Wait until it has ended and its log is read."""
        await self._watch

    async def _watch_until_exit(self) -> None:
        threading.Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True).start()
        closed = asyncio.Event()
        try:
            pump, _ = await self._loop.connect_read_pipe(lambda: LinePump(self._log, closed), self._process.stdout)
        except OSError as error:
            logger.warning("cannot read what llama-server says: %s", error)
            await self._ended.wait()
        else:
            await self._ended.wait()
            with contextlib.suppress(TimeoutError):  # a process that left the group may hold the pipe open
                await asyncio.wait_for(closed.wait(), LAST_LINES_S)
            pump.close()
        code = self._process.returncode
        self._on_exit(Exit(signal=-code) if code < 0 else Exit(code=code))

    def _wait(self) -> None:
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            # Not reaped yet, so the group's number is still ours: what the child forked goes with it.
            _signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        try:
            self._loop.call_soon_threadsafe(self._ended.set)
        except RuntimeError:
            return  # the loop has closed: nobody is left to tell


def _job_of(process: subprocess.Popen[bytes]) -> Job | None:
    """What holds the child and all it starts on Windows, which has no groups."""
    if sys.platform != "win32":
        return None
    return Job(process, kernel=ctypes.WinDLL("kernel32", use_last_error=True))


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """What the child runs between fork and exec: ask for KILL when its parent dies (Linux; prctl(2))."""
    libc = _LIBC
    if libc is None:
        return None

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # the group has no process left (macOS says EPERM for one of zombies only)


def record_identity(path: Path, identity: Identity) -> None:
    """Write down which child is running, atomically."""
    write_private(path, json.dumps(asdict(identity)).encode())


def sweep_orphans(run_dir: Path) -> list[int]:
    """End the children that a dead supervisor left behind, if they are provably those, and forget their records.

    The caller holds the state folder's lock, so the supervisor that wrote the records is gone.

    Returns:
        The pids that were ended.
    """
    return [pid for record in run_dir.glob("engine-*.json") if (pid := _sweep(record))]


def _sweep(record: Path) -> int | None:
    try:
        recorded = Identity(**json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):
        recorded = None
    record.unlink(missing_ok=True)
    left = [process for process in psutil.process_iter() if recorded and _is_left(process, recorded)]
    if not recorded or not left:
        return None
    _signal_group(recorded.pid, signal.SIGKILL)
    psutil.wait_procs(left, SWEEP_S)
    return recorded.pid


def _is_left(process: psutil.Process, recorded: Identity) -> bool:
    """Whether a process is the recorded child, or, where that was a script that has gone, of its group."""
    try:
        if recorded.socket not in process.cmdline():
            return False
        if process.pid == recorded.pid:
            return process.create_time() == recorded.create_time and process.exe() == recorded.executable
        return os.getpgid(process.pid) == recorded.pid and process.create_time() >= recorded.create_time
    except (OSError, psutil.Error):
        return False
