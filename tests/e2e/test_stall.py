"""llama-server hangs, with /health at 200 or without; it is found and healed in time."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from tests.e2e.conftest import Supervisor, eventually

STALL_S = 2.0
HEALED_S = STALL_S + 5.0
PROMPT = {"prompt": "The sea", "max_tokens": 8}
LONG = {"prompt": "The sea", "max_tokens": 1_000_000, "stream": True, "ignore_eos": True}

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WALL = 0x40000000


@pytest.fixture
def service(engine_build: Path, short_dir: Path) -> Iterator[Supervisor]:
    """A service that calls two seconds without progress a stall."""
    assert engine_build.exists()
    environment = {**os.environ, "RUNNER_STALL_TIMEOUT_S": str(STALL_S)}
    with Supervisor(short_dir / "state", environment=environment) as supervisor:
        yield supervisor.wait_ready()


class Frozen(threading.Thread):
    """Stops one thread of a process, its main one, and leaves the others running, until it is killed (ptrace(2)).

    The thread that traces must live on and wait for the end: until then the process's parent cannot reap it.
    """

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid
        self._frozen = threading.Event()
        self.start()
        assert self._frozen.wait(10)

    def run(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        assert libc.ptrace(PTRACE_SEIZE, self._pid, None, None) == 0
        assert libc.ptrace(PTRACE_INTERRUPT, self._pid, None, None) == 0
        _, status = os.waitpid(self._pid, WALL)
        assert os.WIFSTOPPED(status)
        self._frozen.set()
        while not (os.WIFSIGNALED(status) or os.WIFEXITED(status)):
            _, status = os.waitpid(self._pid, WALL)


def healed(service: Supervisor, before: int) -> bool:
    """Whether another llama-server serves. The command line would take as long to ask as the healing takes."""
    children = {child.pid for child in psutil.Process(service.process.pid).children()}
    return before not in children and httpx.get(f"{service.url}/health").status_code == 200


def check_healed(service: Supervisor, before: int, since: float) -> None:
    """Another engine serves, in time, and status, metrics and a report say why."""
    eventually(lambda: healed(service, before), bool, timeout_s=30, every_s=0.05)
    took_s = time.monotonic() - since
    print(f"healed {took_s:.1f} s after it hung; stall_timeout_s is {STALL_S}")
    assert took_s <= HEALED_S
    engine = service.status()["engine"]
    assert engine["last_cause"] == "stall"
    assert "no sign of progress" in engine["last_death"]
    (report,) = (service.state_dir / "logs").glob(f"stall-*-{before}.txt")
    text = report.read_text()
    assert "threads (id, state" in text
    assert "last lines:" in text
    assert 'runner_engine_deaths_total{cause="stall"} 1.0' in httpx.get(f"{service.url}/metrics").text
    assert not psutil.pid_exists(before)


@contextmanager
def reading_a_stream(service: Supervisor) -> Iterator[Iterator[bytes]]:
    with httpx.stream("POST", f"{service.url}/v1/completions", json=LONG, timeout=60) as response:
        data = response.iter_raw()
        next(data)
        yield data


def test_an_engine_whose_main_thread_is_frozen_is_healed_though_health_says_200(service: Supervisor) -> None:
    pid = service.engine_pid
    with reading_a_stream(service) as data, ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        frozen = Frozen(pid)
        with service.engine() as direct:
            assert direct.get("/health").status_code == 200
        answer = pool.submit(httpx.post, f"{service.url}/v1/completions", json=PROMPT, timeout=60)
        check_healed(service, pid, began)
        assert b"engine_failed" in b"".join(data)
        assert answer.result().status_code == 200
    frozen.join()


def test_an_idle_engine_whose_main_thread_is_frozen_is_healed_too(service: Supervisor) -> None:
    pid = service.engine_pid
    began = time.monotonic()
    frozen = Frozen(pid)
    check_healed(service, pid, began)
    frozen.join()


def test_a_stopped_engine_is_healed_and_its_requests_are_answered(service: Supervisor) -> None:
    pid = service.engine_pid
    with ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        answers = [
            pool.submit(httpx.post, f"{service.url}/v1/completions", json=PROMPT, timeout=60) for _ in range(8)
        ]
        check_healed(service, pid, began)
        assert [answer.result().status_code for answer in answers] == [200] * 8


def test_a_long_generation_is_no_stall(service: Supervisor) -> None:
    pid = service.engine_pid
    with reading_a_stream(service) as data:
        began = time.monotonic()
        for _ in data:
            if time.monotonic() - began > 2 * STALL_S:
                break
    assert service.engine_pid == pid
