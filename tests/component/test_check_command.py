"""`runner-supervisor check`, as a process of its own on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LIMIT_S = 60


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner_supervisor", "check", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ | environment
    )


def test_a_start_that_would_work_is_found_to(short_dir: Path) -> None:
    done = check("--state-dir", str(short_dir / "state"), "--port", "0", RUNNER_CACHE_DIR=str(short_dir / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "a start would work"
    assert [line.split()[0] for line in lines if "llama-server  " in line] == ["warn"]
    assert any(line.startswith("needed (host)") for line in lines)


def test_what_fails_is_said_to_machines_too(short_dir: Path) -> None:
    folder = short_dir / "cache"
    done = check("--model", "none.gguf", "--port", "0", "--json", RUNNER_CACHE_DIR=str(folder))
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    (failed,) = [each for each in answer["findings"] if each["level"] == "fail"]
    assert (answer["works"], answer["memory"], failed["what"]) == (False, None, "model")
    assert failed["advice"] == "give a GGUF file with --model or RUNNER_MODEL"
