"""A machine of its own for a test: Debian's systemd, booted by systemd-nspawn, with this Python and this checkout.

Its files are those of a Debian that is fetched once and kept in the cache; what is written to it is lost at its end.
Its network is this machine's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import platformdirs
import psutil
from tests.conftest import REPOSITORY
from tests.e2e.conftest import eventually

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "procps", "ca-certificates",
    # what the Python in use may be linked with
    "libbz2-1.0", "libcrypt1", "libexpat1", "libffi8", "liblzma5", "libncursesw6", "libreadline8", "libsqlite3-0",
    "libssl3", "libuuid1", "zlib1g",
)  # fmt: skip
TOOLS = ("systemd-nspawn", "debootstrap", "nsenter")
FETCH_S = 600
BOOT_S = 120
COMMAND_S = 240
PYTHON, CHECKOUT, BUILDS = Path("/opt/python"), Path("/opt/checkout"), Path("/opt/builds")
PREFIX = Path("/opt/runner-supervisor")
COMMAND = PREFIX / "bin" / "runner-supervisor"
SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def why_not() -> str | None:
    """Why no such machine can be had here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "booting a systemd takes Linux and root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"there is no {' and no '.join(missing)}"
    if _mirror() is None:
        return "no Debian mirror is known"
    return "this Python is the distribution's own" if sys.base_prefix == "/usr" else None


def _mirror() -> str | None:
    """Where this machine has its packages from."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    lines = sources.read_text().splitlines() if sources.exists() else []
    return next((line.split()[1] for line in lines if line.startswith("URIs:")), None)


def cache_dir() -> Path:
    """Where what is fetched and built is kept."""
    return Path(os.environ.get("RUNNER_CACHE_DIR") or platformdirs.user_cache_path("runner-supervisor"))


def debian() -> Path:
    """The files of a Debian, fetched if they are not there yet."""
    root = cache_dir() / "systemd-root"
    root.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root.with_suffix(".lock"), timeout=FETCH_S):
        if not root.exists():
            new = root.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            wanted = f"--include={','.join(PACKAGES)}"
            command = ["debootstrap", "--variant=minbase", wanted, "bookworm", str(new), str(_mirror())]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=FETCH_S)
            new.rename(root)
    return root


class Machine:
    """A booted machine. Commands run in it as root."""

    def __init__(self, leader: int) -> None:
        self._enter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C"]

    def try_(self, *command: str | Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """What came of a command."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        return subprocess.run(
            [*self._enter, *map(str, command)],
            input=given,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            env=environment,
        )

    def run(self, *command: str | Path, given: str | None = None) -> str:
        """What a command printed, which has worked."""
        done = self.try_(*command, given=given)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self) -> str:
        """What it says of itself: "running" once it has booted."""
        return self.try_("systemctl", "is-system-running").stdout.strip()

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """A command that goes on while the test does."""
        return subprocess.Popen([*self._enter, *command])

    def write(self, path: str | Path, text: str, *, mode: str = "644") -> None:
        """Make a file, with the folders above it."""
        self.run("mkdir", "-p", Path(path).parent)
        self.run("tee", path, given=text)
        self.run("chmod", mode, path)


@contextmanager
def machine(folder: Path, *, builds: Path) -> Iterator[Machine]:
    """A booted machine, in which `COMMAND` is what this checkout has.

    Args:
        folder: for what is to be written into it.
        builds: the builder's cache.
    """
    command = [
        "systemd-nspawn", "--quiet", "--boot", f"--directory={debian()}", "--volatile=overlay",
        f"--machine=runner-{os.getpid()}", "--register=no", "--keep-unit", "--console=pipe",
        f"--bind-ro={sys.base_prefix}:{PYTHON}", f"--bind-ro={REPOSITORY}:{CHECKOUT}",
        f"--bind-ro={Path(sys.prefix) / SITE}:{PREFIX / 'host'}", f"--bind-ro={builds}:{BUILDS}",
    ]  # fmt: skip
    with (folder / "console.log").open("wb") as log:
        nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        leader = eventually(lambda: _first_process(nspawn.pid), bool, timeout_s=BOOT_S)
        booted = Machine(leader)
        up = {"running", "degraded"}
        eventually(booted.state, up.__contains__, timeout_s=BOOT_S, every_s=0.2)
        _set_up(booted)
        yield booted
    finally:
        nspawn.terminate()
        try:
            nspawn.wait(BOOT_S)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()


def _first_process(nspawn: int) -> int:
    """The process id, outside, of the machine's process 1 (proc(5), NSpid); 0: there is none yet."""
    for process in psutil.Process(nspawn).children(recursive=True):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(ids) > 1 and ids[-1] == "1" and "\nName:\tsystemd\n" in f"\n{status}":
                return process.pid
    return 0


def _set_up(machine: Machine) -> None:
    """Put an environment there that has the packages of this one, and llama-server where the service looks for it."""
    machine.write("/etc/ld.so.conf.d/python.conf", f"{PYTHON}/lib\n")
    machine.run("ldconfig")
    machine.run(PYTHON / "bin" / "python3", "-m", "venv", "--without-pip", PREFIX)
    paths = (PREFIX / "host", CHECKOUT / "supervisor", CHECKOUT / "builders")
    machine.write(PREFIX / SITE / "host.pth", "".join(f"{path}\n" for path in paths))
    script = f"#!{PREFIX}/bin/python\nfrom runner_supervisor.cli import main\n\nmain()\n"
    machine.write(COMMAND, script, mode="755")
