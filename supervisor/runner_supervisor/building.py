"""Asks the builder, which runs as a command of its own: its manifest stays the only thing that both sides share."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner_supervisor import show
from runner_supervisor.engine.binary import EngineBinary, read_manifest
from runner_supervisor.errors import EngineError
from runner_supervisor.planning import demo_model

ASKED_S = 60.0
END_S = 15.0
"""How long the builder may take to clean up after itself, in seconds."""

BEAT_S = 10.0
"""How often it is heard of a build that goes on, in seconds."""


def find_binary(*, beat: Callable[[], object]) -> EngineBinary:
    """The llama-server there is, or a new one. `beat` is called at every `BEAT_S` seconds of the build."""
    command = ["build", *verify_with(), "--reuse", "--print-manifest"]
    code, manifest = run_builder(command, stdout=subprocess.PIPE, beat=beat)
    if code != 0:
        raise SystemExit(code)
    return read_manifest(Path(manifest.strip()))


def verify_with() -> tuple[str, str]:
    """What a new llama-server has to get right before it is installed: golden prompts on the demo model."""
    return "--verify-with", str(demo_model().parent)


def present_binary() -> EngineBinary:
    """The llama-server there is; nothing is built."""
    return read_manifest(Path(_ask_builder("build", "--present", "--print-manifest").strip()))


def what_the_machine_has() -> dict[str, Any]:
    """What there is to build with, as the builder sees it."""
    found: dict[str, Any] = json.loads(_ask_builder("toolchain", "--json"))
    return found


def _ask_builder(*arguments: str) -> str:
    """What the builder prints, when it is asked for something that does not take long.

    Raises:
        EngineError: it has something against it.
    """
    command = [sys.executable, "-m", "runner_builders", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=ASKED_S, check=False)
    if found.returncode != 0:
        raise EngineError(found.stderr.strip().removeprefix("error: "))
    return found.stdout


def run_builder(
    arguments: list[str], *, stdout: int | None, beat: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """Run the builder to its end.

    Args:
        arguments: its command line.
        stdout: as `subprocess.Popen` has it.
        beat: called at every `BEAT_S` seconds.

    Returns:
        Its exit code, and what it printed if `stdout` is a pipe.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    command = [sys.executable, "-m", "runner_builders", *arguments]
    # In a session of its own: a Ctrl-C comes here alone, and the builder gets one TERM to clean up after.
    with subprocess.Popen(command, stdout=stdout, text=True, start_new_session=True) as builder:
        try:
            while True:
                beat()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    printed, _ = builder.communicate(timeout=BEAT_S)
                    break
        except BaseException:
            builder.terminate()
            builder.wait(END_S)
            show.err.print("interrupted; the next build goes on where this one stopped")
            raise
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
    return builder.returncode, printed or ""
