"""The real thing: `runner-supervisor start` as a process, the real llama-server under it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil
import pytest
from tests.leaks import LEAKS

from runner_supervisor.layout import Layout

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 60.0
BUILD_TIMEOUT_S = 3600
PYTHON = Path(os.environ.get("INSTALLED_PYTHON", sys.executable))
"""Whose supervisor is tested: `make test-compiled` names one for which the wheel is installed, compiled."""

COMMAND = [str(PYTHON), "-m", "runner_supervisor"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first end-to-end test may have to wait for a compile. What all of them left is looked at last."""
    items.sort(key=lambda item: item.path.name == "test_leaks.py")
    for item in items:
        if "engine_build" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S))
            break


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was looked at, so that nobody takes nothing for everything."""
    terminalreporter.write_line(f"looked for keys and prompts in {len(LEAKS.searched)} files and outputs")


@pytest.fixture(scope="session")
def engine_build() -> Path:
    """The manifest of the real llama-server, built first if it is not there."""
    command = [sys.executable, "-m", "runner_supervisor", "build", "--reuse", "--print-manifest"]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=BUILD_TIMEOUT_S)
    return Path(built.stdout.strip())


Seen = TypeVar("Seen")


def heeds_ctrl_c() -> None:
    """For a command about to begin: what a shell starts in the background is deaf to Ctrl-C, and so are we there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begun(command: list[str]) -> subprocess.Popen[str]:
    """A command that has begun, whose output is read from pipes, and which heeds Ctrl-C."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heeds_ctrl_c)  # noqa: PLW1509


def eventually(
    observe: Callable[[], Seen], wanted: Callable[[Seen], bool], *, timeout_s: float, every_s: float = 0.02
) -> Seen:
    """Look until what is seen is wanted, and return it; fail with the last sight after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        seen = observe()
        if wanted(seen):
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s; last seen: {seen!r}")
        pause.wait(every_s)


class Supervisor:
    """A running `runner-supervisor start` on a free port, with a state folder of its own."""

    def __init__(
        self,
        state_dir: Path,
        *arguments: str,
        environment: dict[str, str] | None = None,
        python: Path = PYTHON,
    ) -> None:
        self.state_dir = state_dir
        self.layout = Layout(state_dir)
        self.printed: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.log_path = state_dir / "supervisor.log"
        state_dir.mkdir(exist_ok=True)
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), *COMMAND[1:], "start", "--state-dir", str(state_dir), "--port", "0", *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        LEAKS.begin(self, os.environ if environment is None else environment)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        engine = self._engine_processes()
        self.process.kill()
        self.process.wait(END_TIMEOUT_S)
        self._reader.join(END_TIMEOUT_S)
        if self.process.stdout:
            self.process.stdout.close()
        psutil.wait_procs(engine, END_TIMEOUT_S)
        self.printed += [line for line in iter(self._lines.get_nowait, None) if line]
        LEAKS.end(self)

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_ready(self) -> Self:
        """Wait for the banner's last line."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (self.printed and self.printed[-1].startswith("curl ")):
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            assert line is not None, f"it ended before it was ready:\n{self.log}"
            self.printed.append(line)
        return self

    @property
    def log(self) -> str:
        """What it wrote to stderr."""
        return self.log_path.read_text()

    def banner(self, name: str) -> str:
        """One value of the banner."""
        return next(line for line in self.printed if line.startswith(f"{name}:")).partition(":")[2].strip()

    @property
    def url(self) -> str:
        """Its address."""
        return self.banner("address").split()[0]

    def status(self) -> dict[str, Any]:
        """What `runner-supervisor status --json` prints."""
        command = [*COMMAND, "status", "--state-dir", str(self.state_dir), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
        assert done.stdout, done.stderr
        return dict(json.loads(done.stdout))

    @property
    def engine_pid(self) -> int:
        """The real llama-server's process id."""
        return int(self.status()["engine"]["pid"])

    def run(self, *arguments: str) -> str:
        """What a command about it prints."""
        command = [*COMMAND, *arguments, "--state-dir", str(self.state_dir)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def create_key(self, name: str, *options: str) -> str:
        """A new key, which it knows of when this returns."""
        key = self.run("keys", "create", "--name", name, *options)
        with httpx.Client(base_url=self.url) as client:

            def known() -> tuple[bool, bool]:
                """Whether the door is shut (before the first key it is open), and whether this key opens it."""
                shut = client.get("/no/such/path").status_code == 401
                return shut, client.get("/no/such/path", headers={"x-api-key": key}).status_code != 401

            eventually(known, all, timeout_s=10, every_s=0.1)  # each look at a key not known yet is a wrong guess
        return key

    def engine(self) -> httpx.Client:
        """A client that talks to llama-server directly, past the front."""
        sockets = list(self.layout.run_dir.glob("engine-*.sock"))
        assert len(sockets) == 1, sockets
        transport = httpx.HTTPTransport(uds=str(sockets[0]))
        return httpx.Client(transport=transport, base_url="http://engine", timeout=30.0)

    def _engine_processes(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@contextmanager
def memory_cgroup(folder: Path, *, limit_bytes: int) -> Iterator[Path]:
    """A Python that runs in a memory cgroup of its own, with so much memory for it and all that it starts."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    old = v1.is_dir()
    name, limit = ("tasks", "memory.limit_in_bytes") if old else ("cgroup.procs", "memory.max")
    cgroup = (v1 if old else v2) / f"runner-test-{os.getpid()}"
    cgroup.mkdir()
    (cgroup / limit).write_text(str(limit_bytes))
    enter = folder / "enter"
    enter.write_text(f'#!/bin/sh\necho $$ > {cgroup / name}\nexec {PYTHON} "$@"\n')
    enter.chmod(0o755)
    try:
        yield enter
    finally:
        eventually((cgroup / name).read_text, lambda members: not members, timeout_s=END_TIMEOUT_S)
        cgroup.rmdir()


def engine_gauge(client: httpx.Client, name: str) -> float:
    """One of llama-server's own metrics."""
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"llamacpp:{name} ")).split()[1])


@pytest.fixture(scope="session")
def service(engine_build: Path) -> Iterator[Supervisor]:
    """One supervisor on the demo model, for the tests that leave it as they found it."""
    assert engine_build.exists()
    with tempfile.TemporaryDirectory(prefix="rs-") as folder, Supervisor(Path(folder) / "state") as supervisor:
        yield supervisor.wait_ready()


@pytest.fixture
def own_service(engine_build: Path, short_dir: Path) -> Iterator[Supervisor]:
    """One supervisor for one test, which may end it or its engine."""
    assert engine_build.exists()
    with Supervisor(short_dir / "state") as supervisor:
        yield supervisor.wait_ready()
