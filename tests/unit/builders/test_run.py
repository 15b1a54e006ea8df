"""Running a command: to its end, with a deadline, without leftovers."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from runner_builders.run import TAIL_LINES, run


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
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
