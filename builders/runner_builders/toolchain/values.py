"""The parts of a toolchain. A part that is not there is a `Missing` that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runner_builders.errors import ToolchainError

Version = tuple[int, ...]
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that was not found: what was looked for, and what to do, in one line."""

    why: str


def require(part: Part | Missing) -> Part:
    """The part, if it was found.

    Raises:
        ToolchainError: it was not; the message says what to do.
    """
    if isinstance(part, Missing):
        raise ToolchainError(part.why)
    return part


def dotted(version: Version) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


@dataclass(frozen=True, slots=True)
class Host:
    """The machine: system (`sys.platform`), machine type, what `-march=native` builds for, and what it has free."""

    system: str
    machine: str
    cpu: str
    processors: int
    memory_bytes: int

    @property
    def is_x86_64(self) -> bool:
        """Whether it is an x86-64; Unix says x86_64, Windows AMD64."""
        return self.machine.lower() in {"x86_64", "amd64"}

    @property
    def is_apple_silicon(self) -> bool:
        """Whether it is a Mac with Apple's own processor."""
        return self.system == "darwin" and self.machine == "arm64"

    @property
    def executable_suffix(self) -> str:
        """What a program's file name ends with."""
        return ".exe" if self.system == "win32" else ""

    @property
    def library_pattern(self) -> str:
        """What a shared library's file name looks like, as a glob."""
        return {"win32": "*.dll", "darwin": "lib*.dylib"}.get(self.system, "lib*.so")

    @property
    def rpath_origin(self) -> str:
        """How a binary names its own folder to the system's loader; empty where it looks there anyway."""
        return {"win32": "", "darwin": "@loader_path"}.get(self.system, "$ORIGIN")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program and its version."""

    path: Path
    version: str


@dataclass(frozen=True, slots=True)
class Compilers:
    """The C and C++ compilers. `kind` is gcc, clang, apple-clang or msvc."""

    cc: Path
    cxx: Path
    kind: str
    version: Version
    description: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU: its name and compute capability, 90 for 9.0."""

    name: str
    architecture: int


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver: its version, the newest CUDA it runs, and the GPUs it drives."""

    version: str
    cuda: Version
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True)
class Cuda:
    """A CUDA toolkit.

    `architectures` is what its nvcc compiles for (90 for sm_90). `refused_hosts` has the first version of each kind
    of host compiler that it does not take. `static_runtime` and `cublas` are libraries that it may or may not hold.
    """

    root: Path
    nvcc: Path
    version: Version
    architectures: tuple[int, ...]
    refused_hosts: Mapping[str, Version]
    static_runtime: Path | None
    cublas: Path | None


@dataclass(frozen=True, slots=True)
class Apple:
    """Apple's tools: the version of the macOS SDK, and codesign."""

    sdk: str
    codesign: Path


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs that take part in a build. `launcher` is ccache or sccache."""

    cmake: Tool | Missing
    ninja: Tool | Missing
    launcher: Tool | None
    glslc: Tool | Missing
    hipcc: Tool | Missing


@dataclass(frozen=True, slots=True)
class Toolchain:
    """All of it."""

    host: Host
    compilers: Compilers | Missing
    tools: Tools
    cuda: Cuda | Missing
    driver: Driver | Missing
    apple: Apple | Missing

    @property
    def cc(self) -> Path:
        """The C compiler; ToolchainError if there is none, as with the next three."""
        return require(self.compilers).cc

    @property
    def cxx(self) -> Path:
        """The C++ compiler."""
        return require(self.compilers).cxx

    @property
    def cmake(self) -> Path:
        """CMake."""
        return require(self.tools.cmake).path

    @property
    def ninja(self) -> Path:
        """Ninja."""
        return require(self.tools.ninja).path
