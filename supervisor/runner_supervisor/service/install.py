"""Puts an installation in place, and takes it away again."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

from runner_supervisor.errors import RunnerError
from runner_supervisor.private import write_private
from runner_supervisor.service.unit import Command, Installation

logger = logging.getLogger(__name__)

FILE_MODE = 0o644
"""Units are for everybody to read: there is no secret in them."""

COMMAND_S = 120.0
"""How long a command of the service manager's may take, in seconds: a stop waits for requests at work."""


def install(installation: Installation, *, now: bool, stop_s: float) -> None:
    """Write the files, make them known, and start the service if that is wanted now.

    Raises:
        RunnerError: a file cannot be written, or a command failed.
    """
    for path, text in installation.files:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, text.encode(), mode=FILE_MODE)
        except OSError as error:
            raise RunnerError(f"cannot write {path}: {error.strerror}; is this the right user?") from None
    for command in (*installation.enable, *(installation.start if now else ())):
        _run(command, limit_s=COMMAND_S + stop_s)


def present(installation: Installation) -> list[Path]:
    """Its files that are there.

    Raises:
        RunnerError: none is.
    """
    there = [path for path, _ in installation.files if path.exists()]
    if not there:
        raise RunnerError(f"no service is installed: there is no {installation.files[0][0]}")
    return there


def uninstall(installation: Installation, *, stop_s: float) -> list[Path]:
    """Stop the service and remove its files. What others put beside them stays.

    Returns:
        What was removed.

    Raises:
        RunnerError: there is none, or a command failed; then the files are still there.
    """
    there = present(installation)
    for command in installation.disable:
        _run(command, limit_s=COMMAND_S + stop_s)
    for path in there:
        path.unlink()
        if path.parent.name.endswith(".d") and not any(path.parent.iterdir()):
            path.parent.rmdir()
    for command in installation.after:
        _run(command, limit_s=COMMAND_S)
    return there


def _run(command: Command, *, limit_s: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except OSError as error:
        raise RunnerError(f"cannot run {command[0]}: {error.strerror}; is this its machine?") from None
    except subprocess.TimeoutExpired:
        raise RunnerError(f"`{' '.join(command)}` has not ended after {limit_s:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RunnerError(f"`{' '.join(command)}` failed: {said[-1] if said else f'exit code {done.returncode}'}")
