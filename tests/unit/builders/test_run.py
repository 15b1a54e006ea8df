"""Running a command: to its end, with a deadline, without leftovers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from runner_builders.run import TAIL_LINES, run, running


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_lines_come_one_by_one_and_the_last_are_kept() -> None:
    lines: list[str] = []
    outcome = run(python("for n in range(100): print(n)"), timeout_s=60, on_line=lines.append)
    assert outcome.ok
    assert lines == [str(number) for number in range(100)]
    assert outcome.tail == lines[-TAIL_LINES:]
    assert outcome.last == "99"


def test_a_failure_keeps_its_code() -> None:
    outcome = run(python("import sys; sys.exit('bad')"), timeout_s=60)
    assert (outcome.code, outcome.ok, outcome.last, outcome.timed_out) == (1, False, "bad", False)


def test_a_missing_command_ends_like_in_a_shell() -> None:
    outcome = run(["/no/such/command"], timeout_s=60)
    assert (outcome.code, outcome.last) == (127, "/no/such/command: No such file or directory")


def test_at_the_deadline_the_command_and_all_it_started_are_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '60']);"
        "open(sys.argv[1], 'w').write(str(child.pid)); child.wait()"
    )
    outcome = run(python(code, str(tmp_path / "pid")), timeout_s=2)
    assert outcome.timed_out
    assert not outcome.ok
    wait_until_dead(int((tmp_path / "pid").read_text()))


def wait_until_dead(pid: int) -> None:
    """A killed process without a parent that waits for it may stay a zombie."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline


def test_a_guarded_command_ends_as_in_a_shell() -> None:
    assert run(python("import sys; sys.exit(7)"), timeout_s=60, guarded=True).code == 7
    assert run(python("import os; os.kill(os.getpid(), 9)"), timeout_s=60, guarded=True).code == 137
    missing = run(["/no/such/command"], timeout_s=60, guarded=True)
    assert (missing.code, missing.last) == (127, "/no/such/command: No such file or directory")


def test_a_guarded_command_imports_nothing_from_the_folder_it_works_in(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("raise SystemExit(1)")
    assert run(["true"], timeout_s=60, cwd=tmp_path, guarded=True).ok


GRANDCHILD = "import os, subprocess, sys, time; os.setpgid(0, 0); print(os.getpid(), flush=True); time.sleep(60)"
BUILDER = """
import sys
from runner_builders.run import run
START = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
run(
    [sys.executable, "-c", START, sys.argv[1]],
    timeout_s=60, on_line=lambda line: print(line, flush=True), guarded=True,
)
"""


def test_a_builder_that_is_killed_takes_all_that_a_guarded_command_started_with_it() -> None:
    with subprocess.Popen(python(BUILDER, GRANDCHILD), stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout
        grandchild = int(builder.stdout.readline())
        builder.kill()
    wait_until_dead(grandchild)


def test_a_command_in_the_background_ends_with_its_block(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(python("print(1, flush=True); import time; time.sleep(60)"), log=log, environment={}) as code:
        while not log.read_text():
            assert code() is None
        assert code() is None
    assert code() == -9
