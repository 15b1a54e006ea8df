"""Runs a command, and ends it with all that it started should the builder die, however it dies.

Ninja and its compilers outlive who started them: after a `kill -9` of the builder they would go on in a folder that
the next build wants. The builder holds the other end of this process's standard input, so its death is an end of
file here, on every Unix.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import NoReturn

import psutil


def kill_session(session: int) -> None:
    """Kill all of a session but ourselves: ninja gives each compiler a process group of its own, so groups do not do.

    What is killed can start nothing any more, so the first look that finds nobody new was the last.
    """
    killed = {os.getpid()}
    while found := {pid for pid in psutil.pids() if pid not in killed and _is_in(pid, session)}:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found


def _is_in(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except (ProcessLookupError, PermissionError):
        return False


def _watch() -> None:
    os.read(sys.stdin.fileno(), 1)  # nobody writes: it returns at the end of file
    kill_session(os.getsid(0))
    os._exit(128 + signal.SIGKILL)


def main() -> NoReturn:
    """Run the command that the arguments are; exit as a shell would."""
    try:
        command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stdout.write(f"{sys.argv[1]}: {error.strerror}\n")
        sys.exit(127)
    threading.Thread(target=_watch, daemon=True).start()
    code = command.wait()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
