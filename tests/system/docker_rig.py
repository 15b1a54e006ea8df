"""A Docker engine of the tests' own, and containers in it.

No registry is asked: the base image is Debian, installed by debootstrap and imported under the name that the
Dockerfiles begin with. Engine, base and the layers of earlier builds are kept in the builder's cache
(`RUNNER_CACHE_DIR`), so that llama-server is compiled once.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import filelock
import httpx
from tests.e2e.conftest import eventually

from runner_builders.cache import default_cache

REPOSITORY = Path(__file__).parents[2]
CPU_IMAGE = "next-runner:cpu"
BASE = "debian:bookworm-slim"
QUICK_S = 120.0
KEPT = "336h"
"""How long layers are kept that no image in use is made of, the compiled llama-server among them."""

BUILD_TIMEOUT_S = 3600.0
READY_S = 120.0
NEEDED = ("dockerd", "docker", "debootstrap", "iptables")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def lacking(*more: str) -> str:
    """Why there can be no Docker engine here; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Docker engine needs root on Linux"
    missing = [tool for tool in (*NEEDED, *more) if not shutil.which(tool)]
    return f"not installed: {', '.join(missing)}" if missing else ""


def open_up(folder: Path) -> Path:
    """Let all users into one of pytest's folders, which are root's alone."""
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    return folder


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Docker:
    """The engine behind a socket."""

    def __init__(self, socket: Path) -> None:
        self.environment = os.environ | {"DOCKER_HOST": f"unix://{socket}"}

    def try_to(self, *arguments: str, timeout_s: float = QUICK_S) -> subprocess.CompletedProcess[str]:
        """Run a `docker` command from the repository's root, whatever comes of it."""
        return subprocess.run(
            ["docker", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def run(self, *arguments: str, timeout_s: float = QUICK_S) -> str:
        """What a `docker` command prints."""
        done = self.try_to(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin a `docker` command; whoever does waits for it."""
        return subprocess.Popen(["docker", *arguments], env=self.environment, stdout=subprocess.DEVNULL)

    def inspect(self, name: str) -> dict[str, Any]:
        """All that is known of an image or a container."""
        return dict(json.loads(self.run("inspect", name))[0])

    def build(self, dockerfile: str, tag: str, *arguments: str) -> str:
        """Build an image as README.md says, and return what the build printed."""
        return self.run("build", "-f", dockerfile, "-t", tag, *arguments, ".", timeout_s=BUILD_TIMEOUT_S)

    def build_text(self, dockerfile: str, tag: str) -> None:
        """Build an image from a Dockerfile that is no file, and needs none."""
        command = ["docker", "build", "--tag", tag, "-"]
        subprocess.run(command, input=dockerfile, text=True, env=self.environment, check=True, timeout=QUICK_S)

    @contextmanager
    def container(self, *arguments: str) -> Iterator[Container]:
        """A container of `docker run` with these arguments, which is removed in the end."""
        container = Container(self, self.run("run", "--detach", *arguments))
        try:
            yield container
        finally:
            self.run("rm", "--force", "--volumes", container.id)


class Container:
    """One container of ours."""

    def __init__(self, docker: Docker, id_: str) -> None:
        self.docker = docker
        self.id = id_

    def wait_healthy(self) -> Self:
        """Wait until its HEALTHCHECK says so."""
        state = eventually(
            lambda: self.state, lambda state: state["Health"]["Status"] == "healthy" or not state["Running"],
            timeout_s=READY_S, every_s=0.5,
        )  # fmt: skip
        assert state["Running"], self.log
        return self

    @property
    def state(self) -> dict[str, Any]:
        """Running, exit code, health."""
        return dict(self.docker.inspect(self.id)["State"])

    @property
    def log(self) -> str:
        """What it printed."""
        return self.docker.run("logs", self.id)

    def ends(self) -> int:
        """Its exit code, once it has ended."""
        return int(self.docker.run("wait", self.id))

    def sh(self, script: str) -> str:
        """What a shell in it prints."""
        return self.docker.run("exec", self.id, "sh", "-c", script)

    def engine(self) -> dict[str, Any]:
        """What `runner-supervisor status` in it says of llama-server."""
        printed = self.docker.try_to("exec", self.id, "runner-supervisor", "status", "--json").stdout
        return dict(json.loads(printed)["engine"])

    @property
    def key(self) -> str:
        """The key that it made and printed."""
        line = next(line for line in self.log.splitlines() if line.startswith("API key:"))
        return line.split()[2]

    @property
    def url(self) -> str:
        """Where its port is published."""
        return f"http://{self.docker.run('port', self.id, '8080/tcp').splitlines()[0]}"

    def ask(self, key: str) -> httpx.Response:
        """A chat, through the published port."""
        return httpx.post(
            f"{self.url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {key}"},
            json={"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8},
            timeout=30.0,
        )


@contextmanager
def engine() -> Iterator[Docker]:
    """A running Docker engine, with Debian as its base image. One at a time, as they share what they keep."""
    kept = default_cache().root / "docker"
    kept.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(kept / "lock", timeout=BUILD_TIMEOUT_S), tempfile.TemporaryDirectory(prefix="rs-") as name:
        folder = Path(name)
        docker = Docker(folder / "d.sock")
        command = [
            "dockerd",
            *("--data-root", str(kept / "root"), "--exec-root", str(folder / "exec")),
            *("--host", f"unix://{folder / 'd.sock'}", "--pidfile", str(folder / "pid")),
        ]
        with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                eventually(
                    lambda: process.poll() is not None or docker.try_to("info").returncode == 0,
                    bool, timeout_s=QUICK_S, every_s=0.1,
                )  # fmt: skip
                assert process.poll() is None, (folder / "log").read_text()
                docker.run("image", "prune", "--force", "--filter", f"until={KEPT}")
                _import_base(docker)
                yield docker
            finally:
                process.terminate()
                process.wait(QUICK_S)


def _import_base(docker: Docker) -> None:
    """Debian without a registry, with this machine's authorities, as the package index may be behind one of them."""
    if docker.try_to("image", "inspect", BASE).returncode == 0:
        return
    with tempfile.TemporaryDirectory(prefix="rs-") as name:
        root = Path(name) / "root"
        sources = Path("/etc/apt/sources.list.d/debian.sources").read_text().splitlines()
        mirror = next(line.split()[1] for line in sources if line.startswith("URIs:"))
        command = ["debootstrap", "--variant=minbase", "bookworm", str(root), mirror]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=BUILD_TIMEOUT_S)
        if CERTIFICATES.exists():
            (root / "etc/ssl").mkdir(exist_ok=True)  # Debian's smallest has none
            shutil.copy(CERTIFICATES, root / "etc/ssl/authorities.pem")
            (root / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/authorities.pem\n")
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["docker", "import", "-", BASE], stdin=tar.stdout, env=docker.environment, check=True, timeout=QUICK_S
            )
