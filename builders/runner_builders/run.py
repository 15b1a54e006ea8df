"""The only place that runs a subprocess: with a deadline, line by line, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner_builders.guard import kill_session

TAIL_LINES = 30
GUARD = (sys.executable, "-P", "-m", "runner_builders.guard")
"""Before a command, it ends the command when we die. -P: the folder it works in has no say in what is imported."""

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
    """How a command ended: its exit code (as a shell tells it when `guarded`), and its last 30 lines of output."""

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
    guarded: bool = False,
) -> Outcome:
    """Run a command to its end; stdout and stderr come as one.

    Args:
        argv: the command.
        timeout_s: seconds after which it and all it started are killed.
        cwd: the folder to run it in.
        environment: its variables; None means ours.
        on_line: called with each line, without its end.
        guarded: whether it ends when we are killed. For what may take long; it costs 50 ms.

    Returns:
        Its outcome. A command that does not exist ends with code 127, as in a shell.
    """
    try:
        process = _start(argv, cwd=cwd, environment=environment, guarded=guarded, stdout=subprocess.PIPE)
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


@contextlib.contextmanager
def running(argv: list[str], *, log: Path, environment: Mapping[str, str]) -> Iterator[Callable[[], int | None]]:
    """A guarded command at work while the block runs; its output goes to `log`, and then it is killed.

    Yields:
        What tells its exit code, or None: it runs.

    Raises:
        OSError: the log cannot be written.
    """
    with log.open("wb") as file:
        process = _start(argv, cwd=None, environment=environment, guarded=True, stdout=file.fileno())
        with process:
            try:
                yield process.poll
            finally:
                if process.poll() is None:
                    _kill(process)


def _start(
    argv: list[str], *, cwd: Path | None, environment: Mapping[str, str] | None, guarded: bool, stdout: int
) -> subprocess.Popen[str]:
    variables = os.environ if environment is None else environment
    guard = guarded and sys.platform != "win32"
    return subprocess.Popen(
        [*GUARD, *argv] if guard else argv,
        cwd=cwd,
        env={name: value for name, value in variables.items() if name not in OF_ANOTHER_REPOSITORY},
        stdin=subprocess.PIPE if guard else subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=sys.platform != "win32",
    )


def _kill(process: subprocess.Popen[str]) -> None:
    """End the command's whole session."""
    process.kill()
    if sys.platform != "win32":
        kill_session(process.pid)
