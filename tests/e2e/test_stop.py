"""The end: orderly with TERM, and without a trace with KILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import httpx
import psutil
from tests.e2e.conftest import COMMAND, END_TIMEOUT_S, Supervisor, eventually

TOKENS = 4000
STREAM = {"prompt": "The sea", "max_tokens": TOKENS, "stream": True, "ignore_eos": True}


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_term_lets_a_running_stream_finish_and_leaves_no_process(own_service: Supervisor) -> None:
    engine = own_service.engine_pid
    with httpx.stream("POST", f"{own_service.url}/v1/completions", json=STREAM, timeout=60) as response:
        data = response.iter_raw()
        received = next(data)
        own_service.process.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{own_service.url}/health").json()["status"], "draining".__eq__, timeout_s=5)
        refused = httpx.post(f"{own_service.url}/v1/completions", json=STREAM)
        received += b"".join(data)
    events = [json.loads(line[6:]) for line in received.splitlines() if line.startswith(b"data: {")]
    assert received.endswith(b"data: [DONE]\n\n")
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["timings"]["predicted_n"] == TOKENS
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert int(refused.headers["retry-after"]) >= 1
    assert own_service.process.wait(END_TIMEOUT_S) == 0
    assert not alive(engine)
    assert not list(own_service.layout.run_dir.iterdir())


def test_a_second_term_hurries(own_service: Supervisor) -> None:
    engine = own_service.engine_pid
    body = STREAM | {"max_tokens": 30_000}
    with httpx.stream("POST", f"{own_service.url}/v1/completions", json=body, timeout=60) as response:
        data = response.iter_raw()
        next(data)
        own_service.process.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{own_service.url}/health").json()["status"], "draining".__eq__, timeout_s=5)
        own_service.process.send_signal(signal.SIGTERM)
        assert b"engine_failed" in b"".join(data)
        assert own_service.process.wait(END_TIMEOUT_S) == 0
    assert not alive(engine)


def test_kill_of_the_supervisor_leaves_no_engine_behind(own_service: Supervisor) -> None:
    engine = own_service.engine_pid
    os.kill(own_service.process.pid, signal.SIGKILL)
    own_service.process.wait(END_TIMEOUT_S)
    eventually(lambda: alive(engine), lambda lives: not lives, timeout_s=2)


def test_the_stop_command_waits_until_all_has_gone(own_service: Supervisor) -> None:
    engine = own_service.engine_pid
    command = [*COMMAND, "stop", "--state-dir", str(own_service.state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
    assert not alive(engine)
    assert own_service.process.wait(END_TIMEOUT_S) == 0


def test_status_and_stop_without_a_supervisor_say_so(own_service: Supervisor) -> None:
    for name in ("status", "stop"):
        command = [*COMMAND, name, "--state-dir", str(own_service.state_dir / "other")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
        assert done.returncode == 3
        assert done.stderr.startswith("error: no supervisor runs on ")
        assert len(done.stderr.splitlines()) == 1
