"""What is compared: the engine itself, nginx, the front with all its features, a blind splice, the naive proxy."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.load import KEY, Address

_CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, ENGINE_CORE = _CORES[0], _CORES[-1]
START_S = 30.0
FRONT_PYTHON = os.environ.get("INSTALLED_PYTHON", sys.executable)
"""The Python that runs the front: `make bench` names one that a wheel is installed for, as users have it."""

NGINX_CONF = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_max_body_size 100m; client_body_buffer_size 16m; keepalive_requests 1000000;
  map $http_authorization $admitted {{ default 0; "Bearer {key}" 1; }}
  upstream engine {{ server unix:{engine}; keepalive 512; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      if ($admitted = 0) {{ return 401; }}
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Authorization ""; proxy_buffering off; proxy_read_timeout 300s;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Somewhere to send load. `pid` is the process whose cost counts; None for the engine itself."""

    name: str
    address: Address
    pid: int | None

    def cpu_s(self) -> float:
        """CPU seconds used so far, by it and (nginx) its workers."""
        return sum(_cpu_s(process.pid) for process in self._processes())

    def resident_bytes(self) -> int:
        """Resident memory, by it and (nginx) its workers."""
        return sum(process.memory_info().rss for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        if self.pid is None:
            return []
        process = psutil.Process(self.pid)
        workers = process.children() if self.name == "nginx" else []
        return [process, *workers]


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process's threads, to the nanosecond, where psutil's come in hundredths."""
    statistics = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in statistics) / 1e9


def free_port() -> int:
    """A TCP port that nobody uses just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], *, port: int, core: int, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Run a command on one core until the block ends; yields its pid once it listens on `port`."""
    process = subprocess.Popen(
        argv,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not start")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)


@contextlib.contextmanager
def fake_engine(folder: Path) -> Iterator[list[Target]]:
    """Start everything: the front brings the fake engine up, the others use that same engine.

    Engine and load cost little and share a core; each proxy in turn has the other.
    """
    os.sched_setaffinity(0, {ENGINE_CORE})
    engine_port = free_port()
    prebuilt = folder / "prebuilt"
    prebuilt.mkdir()
    launcher = prebuilt / "llama-server"
    repository = Path(__file__).parents[1]
    launcher.write_text(f'#!/bin/sh\nPYTHONPATH={repository} exec {sys.executable} -m bench.engine "$@"\n')
    launcher.chmod(0o755)
    flags = ["--tcp-port", str(engine_port), "--core", str(ENGINE_CORE)]
    environment = {"LLAMA_CPP_DIR": str(prebuilt), "RUNNER_CACHE_DIR": str(folder / "cache")}
    with _front(folder, flags, environment) as front, contextlib.ExitStack() as stack:
        socket_path = _engine_socket(folder)
        targets = [Target("direct", engine_port, None), *stack.enter_context(_nginx(folder, socket_path)), front]
        for name, engine in (("splice", socket_path), ("naive", engine_port)):
            port = free_port()
            command = [sys.executable, "-m", f"bench.{name}", str(port), str(engine)]
            pid = stack.enter_context(running(command, port=port, core=PROXY_CORE))
            targets.append(Target(name, port, pid))
        yield targets


@contextlib.contextmanager
def real_engine(folder: Path) -> Iterator[list[Target]]:
    """The real llama-server on the demo model, directly and through the front.

    It has a core of its own, as it needs one; the load shares the front's.
    """
    os.sched_setaffinity(0, {PROXY_CORE})
    with _front(folder, ["--parallel", "8", "--threads", "1", "--threads-http", "80"], {}) as front:
        engine = psutil.Process(front.pid).children()[0]
        for thread in engine.threads():
            os.sched_setaffinity(thread.id, {ENGINE_CORE})
        yield [Target("direct", str(_engine_socket(folder)), None), front]


@contextlib.contextmanager
def _front(folder: Path, flags: list[str], environment: dict[str, str]) -> Iterator[Target]:
    """The front with a key, its queue and its metrics, and the engine it starts."""
    port = free_port()
    own = ["--state-dir", str(folder / "state"), "--port", str(port)]
    command = [FRONT_PYTHON, "-m", "runner_supervisor", "start", *own, "--", *flags]
    environment = environment | {"RUNNER_API_KEYS": KEY, "RUNNER_LOG_LEVEL": "warning"}
    with running(command, port=port, core=PROXY_CORE, environment=environment) as pid:
        _await_ready(port)
        yield Target("front", port, pid)


def _engine_socket(folder: Path) -> Path:
    return folder / "state" / "run" / "engine-1-1.sock"


@contextlib.contextmanager
def _nginx(folder: Path, engine: Path) -> Iterator[list[Target]]:
    if not shutil.which("nginx"):
        print("nginx is not installed: it is left out (apt install nginx-light)", file=sys.stderr)
        yield []
        return
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder, engine=engine, port=port, key=KEY))
    if os.getuid() == 0:  # its worker must reach the socket in our folders
        conf.write_text("user root;\n" + conf.read_text())
    with running(["nginx", "-e", str(folder / "nginx.log"), "-c", str(conf)], port=port, core=PROXY_CORE) as pid:
        yield [Target("nginx", port, pid)]


def _await_ready(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if httpx.get(f"http://127.0.0.1:{port}/health").status_code == httpx.codes.OK:
            return
        time.sleep(0.05)
    raise RuntimeError("the front did not become ready")


def how_the_front_runs() -> str:
    """Whether it is compiled or interpreted."""
    script = "from runner_supervisor import doctor; print(doctor.how_the_front_runs())"
    done = subprocess.run(
        [FRONT_PYTHON, "-c", script], stdout=subprocess.PIPE, text=True, timeout=START_S, check=True
    )
    return done.stdout.strip()


def processor() -> str:
    """This machine's processor, in words."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "unknown"
