"""What process 1 does, in a process that adopts orphans as it would (prctl(2), PR_SET_CHILD_SUBREAPER)."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux's")

TIMEOUT_S = 30.0
FIRST = """
import ctypes, os, signal, subprocess, sys, time
from runner_supervisor import pid1
ctypes.CDLL(None).prctl(36, 1)
first = os.getpid()
pid1.stay_behind()
"""
LEAVES_AN_ORPHAN = """
orphan = int(subprocess.check_output(["sh", "-c", "sleep 0.05 >/dev/null & echo $!"]))
deadline = time.monotonic() + 20
while os.path.exists(f"/proc/{orphan}"):
    if time.monotonic() > deadline:
        sys.exit(f"a zombie is left: {orphan}")
    time.sleep(0.01)
sys.exit(7)
"""
WAITS_FOR_A_SIGNAL = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print("ready", flush=True)
signal.pause()
"""


def first(then: str) -> subprocess.Popen[str]:
    """A process that stays behind, while its child does something."""
    return subprocess.Popen([sys.executable, "-c", FIRST + then], stdout=subprocess.PIPE, text=True)


def test_orphans_are_reaped_and_the_exit_code_is_the_childs() -> None:
    with first(LEAVES_AN_ORPHAN) as process:
        assert process.wait(TIMEOUT_S) == 7


def test_a_signal_is_handed_on() -> None:
    with first(WAITS_FOR_A_SIGNAL) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 9


def test_a_child_that_a_signal_ended_is_told_as_a_shell_does() -> None:
    with first("os.kill(os.getpid(), signal.SIGKILL)") as process:
        assert process.wait(TIMEOUT_S) == 128 + signal.SIGKILL
