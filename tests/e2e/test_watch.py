"""`runner-supervisor status --watch` on the real service: on a terminal, in a pipe, and as JSON."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tests.e2e.conftest import COMMAND, END_TIMEOUT_S, START_TIMEOUT_S, Supervisor, begun, heeds_ctrl_c

ORDERS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
SIZE = (45, 110)
ENTER = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal the program's own, so that Ctrl-C there reaches it."""


def command(state_dir: Path, *options: str) -> list[str]:
    return [*COMMAND, "status", "--watch", "--state-dir", str(state_dir), *options]


class Terminal:
    """A terminal with a program on it."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._shown = b""

    def wait_for(self, text: str, *, timeout_s: float) -> None:
        """Read on until this is shown, and forget what was shown before it."""
        deadline = time.monotonic() + timeout_s
        while text.encode() not in (plain := ORDERS.sub(b"", self._shown)):
            if not select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                pytest.fail(f"{text!r} is not shown; the end of what is: {plain[-4000:].decode(errors='replace')}")
            try:
                self._shown += os.read(self._descriptor, 1 << 16)
            except OSError:  # Linux says so when nobody has the terminal open any more
                pytest.fail(
                    f"the command has ended; the end of what it showed: {plain[-4000:].decode(errors='replace')}"
                )
        self._shown = plain.partition(text.encode())[2]

    def rest(self) -> bytes:
        """What was still written by a program that has ended."""
        written = b""
        with contextlib.suppress(OSError):  # as Linux says that nobody has the terminal's other side
            while data := os.read(self._descriptor, 1 << 16):
                written += data
        return written

    def press_ctrl_c(self) -> int:
        """Its exit code."""
        os.write(self._descriptor, b"\x03")
        return self.process.wait(END_TIMEOUT_S)


@contextmanager
def terminal(arguments: list[str]) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-c", ENTER, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        preexec_fn=heeds_ctrl_c,  # noqa: PLW1509
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait(END_TIMEOUT_S)
        os.close(ours)


def test_a_page_on_a_terminal_survives_the_engines_death_and_the_supervisors(
    short_dir: Path, engine_build: Path
) -> None:
    assert engine_build.exists()
    state_dir = short_dir / "state"
    with Supervisor(state_dir) as first:
        first.wait_ready()
        with terminal(command(state_dir)) as watched:
            watched.wait_for("READY", timeout_s=START_TIMEOUT_S)
            watched.wait_for("last log lines", timeout_s=10)
            psutil.Process(first.engine_pid).kill()
            watched.wait_for("BACKOFF", timeout_s=30)
            watched.wait_for("READY", timeout_s=START_TIMEOUT_S)
            watched.wait_for("crash: ", timeout_s=10)
            watched.wait_for("served again after", timeout_s=10)
            first.process.kill()
            watched.wait_for("GONE", timeout_s=30)
            watched.wait_for("reconnecting: no supervisor runs on", timeout_s=30)
            with Supervisor(state_dir) as second:
                second.wait_ready()
                watched.wait_for("the supervisor was restarted", timeout_s=30)
                watched.wait_for("READY", timeout_s=30)
                assert watched.press_ctrl_c() == 0


def test_a_terminal_is_left_as_it_was_also_when_the_command_is_told_to_end(service: Supervisor) -> None:
    with terminal(command(service.state_dir)) as watched:
        watched.wait_for("READY", timeout_s=START_TIMEOUT_S)
        watched.process.terminate()
        assert watched.process.wait(END_TIMEOUT_S) == 143
        assert watched.rest().endswith((b"\x1b[?1049l\x1b[?25h", b"\x1b[?25h\x1b[?1049l"))


def test_in_a_pipe_it_says_a_line_a_second(service: Supervisor) -> None:
    with begun(command(service.state_dir)) as running:
        assert running.stdout
        lines = [running.stdout.readline() for _ in range(3)]
        running.send_signal(signal.SIGINT)
        assert running.wait(END_TIMEOUT_S) == 0
    assert all(re.match(r"\d\d:\d\d:\d\d ready for .*; slots \d/4; ", line) for line in lines), lines


def test_json_comes_line_by_line(service: Supervisor) -> None:
    with begun(command(service.state_dir, "--json")) as running:
        assert running.stdout
        told = [json.loads(running.stdout.readline()) for _ in range(4)]
        running.send_signal(signal.SIGINT)
        assert running.wait(END_TIMEOUT_S) == 0
    assert told[0]["event"] == "hello"
    snapshots = [each["data"] for each in told if each["event"] == "now"]
    assert {each["engine"]["state"] for each in snapshots} == {"ready"}
    assert all(each["sample"]["tokens_per_s"] >= 0 for each in snapshots)


def test_where_nothing_runs_there_is_nothing_to_watch(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    assert done.returncode == 3
    assert "no supervisor runs on" in done.stderr


def test_watching_quietly_makes_no_sense(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--quiet"), capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False
    )
    assert done.returncode == 2
    assert "--watch shows and --quiet does not" in done.stderr
