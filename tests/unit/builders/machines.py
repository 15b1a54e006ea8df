"""Toolchains of machines that the tests do not run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from runner_builders.patches import Patch
from runner_builders.pin import Pin
from runner_builders.toolchain import Apple, Compilers, Cuda, Driver, Gpu, Host, Missing, Tool, Toolchain, Tools
from runner_builders.toolchain.values import Version

COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
PIN = Pin(
    commit=COMMIT,
    git="https://example.org/llama.cpp",
    sdist=None,
    patches=(Patch("0001-first", b"--- a/x\n"),),
)

GIB = 2**30
NONE = Missing("not here; get one")


def gcc(*version: int) -> Compilers:
    text = ".".join(map(str, version))
    return Compilers(
        cc=Path("/usr/bin/cc"),
        cxx=Path("/usr/bin/c++"),
        kind="gcc",
        version=version,
        description=f"c++ (Debian {text}) {text}",
    )


TOOLS = Tools(
    cmake=Tool(Path("/usr/bin/cmake"), "4.1.0"),
    ninja=Tool(Path("/usr/bin/ninja"), "1.13.0"),
    launcher=None,
    glslc=NONE,
    hipcc=NONE,
)
LINUX = Toolchain(
    host=Host(system="linux", machine="x86_64", cpu="x86_64-0123456789ab", processors=8, memory_bytes=32 * GIB),
    compilers=gcc(12, 2, 0),
    tools=TOOLS,
    cuda=NONE,
    driver=NONE,
    apple=NONE,
)
LINUX_ARM64 = replace(LINUX, host=replace(LINUX.host, machine="aarch64", cpu="aarch64-0123456789ab"))
MAC = replace(
    LINUX,
    host=replace(LINUX.host, system="darwin", machine="arm64", cpu="arm64"),
    compilers=Compilers(
        cc=Path("/usr/bin/cc"),
        cxx=Path("/usr/bin/c++"),
        kind="apple-clang",
        version=(16, 0, 0),
        description="Apple clang version 16.0.0 (clang-1600.0.26.6)",
    ),
    apple=Apple(sdk="15.2", codesign=Path("/usr/bin/codesign")),
)
MAC_INTEL = replace(MAC, host=replace(MAC.host, machine="x86_64", cpu="x86_64"))
WINDOWS = replace(
    LINUX,
    host=replace(LINUX.host, system="win32", machine="AMD64", cpu="AMD64"),
    compilers=Compilers(
        cc=Path("cl.exe"),
        cxx=Path("cl.exe"),
        kind="msvc",
        version=(19, 44, 35207),
        description="Microsoft (R) C/C++ Optimizing Compiler Version 19.44.35207 for x64",
    ),
)

ARCHITECTURES: Mapping[Version, tuple[int, ...]] = {
    (12, 4): (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90),
    (12, 8): (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 120),
    (13, 0): (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121),
}
REFUSED: Mapping[Version, Mapping[str, Version]] = {
    (12, 4): {"gcc": (14,), "clang": (18,), "msvc": (19, 40)},
    (12, 8): {"gcc": (15,), "clang": (20,), "msvc": (19, 50)},
    (13, 0): {"gcc": (16,), "clang": (21,), "msvc": (19, 50)},
}
"""As the toolkits' crt/host_config.h has them."""


def cuda(*version: int, cublas: bool = True) -> Cuda:
    place = Path(f"/usr/local/cuda-{version[0]}.{version[1]}")
    library = place / "lib64"
    return Cuda(
        root=place,
        nvcc=place / "bin" / "nvcc",
        version=(*version, 61),
        architectures=ARCHITECTURES[version],
        refused_hosts=REFUSED[version],
        static_runtime=library / "libcudart_static.a",
        cublas=library / "libcublas.so" if cublas else None,
    )


def windows_cuda(*version: int) -> Cuda:
    place = Path(f"C:/CUDA/v{version[0]}.{version[1]}")
    return replace(
        cuda(*version),
        root=place,
        nvcc=place / "bin" / "nvcc.exe",
        static_runtime=place / "lib" / "x64" / "cudart_static.lib",
        cublas=place / "lib" / "x64" / "cublas.lib",
    )


def driver(*cuda: int, version: str = "570.86.10", gpus: tuple[Gpu, ...] = ()) -> Driver:
    return Driver(version=version, cuda=cuda, gpus=gpus)


GTX_1080 = Gpu("NVIDIA GeForce GTX 1080", 61)
RTX_5090 = Gpu("NVIDIA GeForce RTX 5090", 120)
CARDS = (
    Gpu("Tesla T4", 75),
    Gpu("NVIDIA GeForce RTX 3090", 86),
    Gpu("NVIDIA GeForce RTX 4090", 89),
    Gpu("NVIDIA H100 80GB HBM3", 90),
    RTX_5090,
)


def with_gpu(gpu: Gpu, *, toolkit: Cuda, machine: Toolchain = LINUX) -> Toolchain:
    """A machine with one card, and a driver as new as the toolkit."""
    major, minor = toolkit.version[:2]
    return replace(machine, cuda=toolkit, driver=driver(major, minor, gpus=(gpu,)))
