"""What goes wrong while something is built: the message says what, and the build in use stays, whole, and serves."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.component.build_rig import NOWHERE, SERVER, TIMEOUT_S, Tree
from tests.unit.builders.test_source import make_sdist

from runner_builders.pin import Sdist

OFFLINE = {"PIP_INDEX_URL": f"{NOWHERE}/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


class Hanging:
    """A compiler that hangs over main.c until it is told to go on."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cc"
        self.at_work, self._hang = folder / "compiling", folder / "hang"
        self._hang.touch()
        hang = f"[ -e {self._hang} ] && {{ sleep 600 & touch {self.at_work}; wait; }}"
        self.path.write_text(f'#!/bin/sh\ncase "$*" in *main.c*) {hang};; esac\nexec cc "$@"\n')
        self.path.chmod(0o755)

    def go_on(self) -> None:
        """Compile from now on."""
        self._hang.unlink()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "TERM"])
def test_an_interrupted_build_leaves_no_compiler_behind_and_can_go_on(tree: Tree, number: signal.Signals) -> None:
    good = tree.built()
    tree.write(SERVER.replace("1 (tiny)", "2 (tiny)"))
    compiler = Hanging(tree.folder)
    environment = tree.environment | {"CC": str(compiler.path)}
    process = subprocess.Popen(tree.build_command(), env=environment, stderr=subprocess.PIPE, text=True)
    while not compiler.at_work.exists():
        assert process.poll() is None, process.communicate()
    deadline = time.monotonic() + TIMEOUT_S
    while not {"ninja", "sleep"} <= names(children := psutil.Process(process.pid).children(recursive=True)):
        assert time.monotonic() < deadline, children
    process.send_signal(number)
    process.communicate(timeout=TIMEOUT_S)
    assert psutil.wait_procs(children, TIMEOUT_S)[1] == []
    assert tree.serves(good)
    compiler.go_on()
    log = next((tree.cache / "compile").glob("*-*"))
    built = tree.built(CC=str(compiler.path))
    assert built != good
    assert tree.serves(built)
    assert not log.exists()


def names(processes: list[psutil.Process]) -> set[str]:
    """Of those that are still there."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(process.name())
    return found


@contextlib.contextmanager
def small_disk(folder: Path, *, free_bytes: int) -> Iterator[None]:
    """A cache folder on a disk of its own that has so much room left. Takes root."""
    disk = folder.with_name("disk")
    folder.rename(disk)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{disk}/.", str(folder)], check=True)
        filled = os.statvfs(folder)
        size_bytes = (filled.f_blocks - filled.f_bfree) * filled.f_frsize + free_bytes
        subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


BIG = "char big[3 << 20] = {1};\n"
"""An object file and a binary of three megabytes each."""


@pytest.mark.parametrize(
    ("free_bytes", "said"),
    [
        (100_000, "error: cannot copy llama.cpp's source to "),
        (2_500_000, "error: llama-server did not compile (the disk is full: make room there, for one with "),
        (7_500_000, "error: cannot write into "),
    ],
    ids=["copying", "compiling", "installing"],
)
def test_a_full_disk_leaves_the_build_in_use(tree: Tree, free_bytes: int, said: str) -> None:
    good = tree.built()
    (tree.source / "large").write_bytes(bytes(200_000))
    tree.write(BIG + SERVER)
    with small_disk(tree.cache, free_bytes=free_bytes):
        failed = tree.build()
        assert failed.returncode == 1
        assert said in failed.stderr, failed.stderr
        assert "make room there" in failed.stderr
        assert tree.serves(good)


def test_no_compiler_leaves_the_build_in_use(tree: Tree) -> None:
    good = tree.built()
    tree.write(SERVER.replace("1 (tiny)", "2 (tiny)"))
    failed = tree.build(CXX="no-such-compiler")
    assert failed.returncode == 1
    assert "error: no C/C++ compiler found (looked for CXX=no-such-compiler); install one" in failed.stderr
    assert tree.serves(good)


def test_a_wrong_checksum_leaves_the_build_in_use(tree: Tree) -> None:
    good = tree.built()
    tree.write(SERVER.replace("1 (tiny)", "2 (tiny)"))
    actual, wrong = make_sdist(tree.folder / "index"), hashlib.sha256(b"another").hexdigest()
    tree.sdist = Sdist("tiny-sdist==1.0", wrong, "vendor/llama.cpp", tree_sha256="0" * 64)
    command = tree.command("build", "--verify-with", str(tree.goldens))
    failed = tree.run(command, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tree.folder / "index"))
    assert failed.returncode == 1
    assert f"error: tiny-sdist==1.0 has sha256 {actual}, but {wrong} is pinned; do not use" in failed.stderr
    assert tree.serves(good)


def test_no_network_leaves_the_build_in_use(tree: Tree) -> None:
    good = tree.built()
    tree.write(SERVER.replace("1 (tiny)", "2 (tiny)"))
    tree.sdist = Sdist("tiny-sdist==1.0", "0" * 64, "vendor/llama.cpp", tree_sha256="0" * 64)
    failed = tree.run(tree.command("build", "--verify-with", str(tree.goldens)), **OFFLINE)
    assert failed.returncode == 1
    assert "error: cannot fetch llama.cpp: git said «fatal: unable to access " in failed.stderr
    assert "pip said «" in failed.stderr
    assert "check the network, or put a checkout of " in failed.stderr
    assert tree.serves(good)
