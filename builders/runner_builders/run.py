"""The only place that runs a subprocess: with a deadline, line by line, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

TAIL_LINES = 30

OF_ANOTHER_REPOSITORY = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
        "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
    }
)  # fmt: skip
"""What git sets for its hooks (`git rev-parse --local-env-vars`): with it, git works on that repository."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit code (negative: the signal), and its last 30 lines of output."""

    code: int
    tail: list[str]
    timed_out: bool

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.code == 0

    @property
    def last(self) -> str:
        """Its last line that says something."""
        return next((line for line in reversed(self.tail) if line.strip()), "")


def run(
    argv: list[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a command to its end; stdout and stderr come as one.

    Args:
        argv: the command.
        timeout_s: seconds after which it and all it started are killed.
        cwd: the folder to run it in.
        environment: its variables; None means ours.
        on_line: called with each line, without its end.

    Returns:
        Its outcome. A command that does not exist ends with code 127, as in a shell.
    """
    variables = os.environ if environment is None else environment
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={name: value for name, value in variables.items() if name not in OF_ANOTHER_REPOSITORY},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=sys.platform != "win32",
        )
    except OSError as error:
        return Outcome(code=127, tail=[f"{argv[0]}: {error.strerror}"], timed_out=False)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill(process)

    alarm = threading.Timer(timeout_s, expire)
    alarm.start()
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        with process:
            try:
                for line in process.stdout or ():
                    text = line.rstrip("\r\n")
                    tail.append(text)
                    if on_line:
                        on_line(text)
            except BaseException:
                _kill(process)  # before `with` waits for its end
                raise
    finally:
        alarm.cancel()
    return Outcome(code=process.returncode, tail=list(tail), timed_out=expired.is_set())


def _kill(process: subprocess.Popen[str]) -> None:
    """End the command's whole session: ninja gives each compiler a process group of its own."""
    if sys.platform == "win32":
        process.kill()
        return
    for pid in (process.pid, *psutil.pids()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
