"""What this machine has to build with, as typed values."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import cmake
import ninja

from runner_builders.errors import ToolchainError
from runner_builders.run import run

QUICK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A C and C++ compiler, cmake, ninja, and the processor that `-march=native` would build for."""

    machine: str
    cpu: str
    cc: Path
    cxx: Path
    compiler: str
    cmake: Path
    ninja: Path


def detect() -> Toolchain:
    """Look at this machine. CC and CXX name other compilers than the system's.

    Raises:
        ToolchainError: there is no C or C++ compiler, or it does not run.
    """
    cc = _find("CC", ("cc", "gcc", "clang"))
    cxx = _find("CXX", ("c++", "g++", "clang++"))
    return Toolchain(
        machine=platform.machine(),
        cpu=cpu_identity(),
        cc=cc,
        cxx=cxx,
        compiler=_version(cxx),
        cmake=_packaged(Path(cmake.CMAKE_BIN_DIR), "cmake"),
        ninja=_packaged(Path(ninja.BIN_DIR), "ninja"),
    )


def cpu_identity() -> str:
    """The machine type and, where /proc/cpuinfo tells, a digest of the processor's features.

    A native build is for one set of features: with a home folder that several machines share, each needs its
    own.
    """
    machine = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return machine
    features = {line for line in lines if line.lower().startswith(("flags", "features", "model name"))}
    digest = hashlib.sha256("\n".join(sorted(features)).encode()).hexdigest()
    return f"{machine}-{digest[:12]}"


def _find(variable: str, names: tuple[str, ...]) -> Path:
    wanted = os.environ.get(variable)
    for name in (wanted,) if wanted else names:
        found = shutil.which(name)
        if found:
            return Path(found)
    looked = f"{variable}={wanted}" if wanted else ", ".join(names)
    raise ToolchainError(
        f"no C/C++ compiler found (looked for {looked}); install one: `apt install g++`, `dnf install gcc-c++`, "
        "`xcode-select --install` on macOS"
    )


def _version(compiler: Path) -> str:
    outcome = run([str(compiler), "--version"], timeout_s=QUICK_TIMEOUT_S)
    if not outcome.ok or not outcome.tail:
        raise ToolchainError(f"{compiler} --version failed: {outcome.last}; repair it or name another with CXX")
    return re.sub(r"\s+", " ", outcome.tail[0]).strip()


def _packaged(folder: Path, name: str) -> Path:
    """The tool that came with this package's dependencies, else the system's."""
    found = shutil.which(name, path=str(folder)) or shutil.which(name)
    if not found:
        raise ToolchainError(f"no {name} found; install it with `pip install {name}`")
    return Path(found)
