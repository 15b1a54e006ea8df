"""NVIDIA's toolkit and driver: what nvcc compiles for and with, and what the driver runs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pynvml

from runner_builders.run import run
from runner_builders.toolchain.values import Cuda, Driver, Gpu, Missing, Version

QUICK_TIMEOUT_S = 30.0
LIBRARY_FOLDERS = ("lib64", "lib", "targets/*/lib", "lib/x64")
HEADER_FOLDERS = ("include", "targets/*/include")
HOST_LIMITS = {
    "gcc": re.compile(r"__GNUC__ > (\d+)"),
    "clang": re.compile(r"__clang_major__ >= (\d+)"),
    "msvc": re.compile(r"_MSC_VER >= (\d+)"),
}
"""How a toolkit's crt/host_config.h refuses host compilers that are too new."""


def detect_cuda() -> Cuda | Missing:
    """The CUDA toolkit: CUDACXX's, else the one on PATH, else CUDA_PATH's, else /usr/local/cuda."""
    named = os.environ.get("CUDACXX")
    folders = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places = [named] if named else ["nvcc", *(str(Path(folder, "bin", "nvcc")) for folder in folders if folder)]
    found = next(filter(None, map(shutil.which, places)), None)
    if found is None:
        looked = f"CUDACXX={named}" if named else "nvcc on PATH, in CUDA_PATH, and in /usr/local/cuda"
        return Missing(f"no CUDA toolkit found (looked for {looked}); install one, or name its nvcc with CUDACXX")
    return _look_into(Path(found))


def _look_into(nvcc: Path) -> Cuda | Missing:
    lines: list[str] = []
    asked = (["--version"], ["--list-gpu-arch"], ["--dryrun", "x.cu"])
    outcomes = [run([str(nvcc), *question], timeout_s=QUICK_TIMEOUT_S, on_line=lines.append) for question in asked]
    text = "\n".join(lines)
    version = re.search(r"release \d+\.\d+, V(\d+)\.(\d+)\.(\d+)", text)
    if not version:
        return Missing(f"{nvcc} --version failed: {outcomes[0].last}; repair it or name another with CUDACXX")
    top = re.search(r"^#\$ TOP=(.+)$", text, re.MULTILINE)  # nvcc on PATH may be a script that calls another
    root = Path(top[1].strip()).resolve() if top else nvcc.resolve().parents[1]
    inside = root / "bin" / nvcc.name
    return Cuda(
        root=root,
        nvcc=inside if inside.exists() else nvcc,
        version=tuple(map(int, version.groups())),
        architectures=tuple(sorted({int(number) for number in re.findall(r"^compute_(\d+)$", text, re.MULTILINE)})),
        refused_hosts=_refused_hosts(root),
        static_runtime=_first(root, LIBRARY_FOLDERS, ("libcudart_static.a", "cudart_static.lib")),
        cublas=_first(root, LIBRARY_FOLDERS, ("libcublas.so", "cublas.lib")),
    )


def _refused_hosts(root: Path) -> dict[str, Version]:
    """The first version of each host compiler that the toolkit's own header refuses."""
    header = _first(root, HEADER_FOLDERS, ("crt/host_config.h",))
    text = header.read_text(errors="replace") if header else ""
    found = {kind: pattern.search(text) for kind, pattern in HOST_LIMITS.items()}
    return {kind: _as_version(kind, int(limit[1])) for kind, limit in found.items() if limit}


def _as_version(kind: str, limit: int) -> Version:
    """The header names gcc's last good major version, clang's first bad one, and MSVC's as 1950 for 19.50."""
    return {"gcc": (limit + 1,), "msvc": divmod(limit, 100)}.get(kind, (limit,))


def _first(root: Path, folders: tuple[str, ...], names: tuple[str, ...]) -> Path | None:
    """The first of these files that is in one of these folders."""
    return next(
        (path for folder in folders for name in names for path in sorted(root.glob(f"{folder}/{name}"))), None
    )


def detect_driver() -> Driver | Missing:
    """NVIDIA's driver and its GPUs, through NVML."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Missing(f"no NVIDIA driver found ({error}); install it if this machine has an NVIDIA GPU")
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return Driver(
            version=pynvml.nvmlSystemGetDriverVersion(),
            cuda=(cuda // 1000, cuda % 1000 // 10),
            gpus=tuple(_gpu(handle) for handle in handles),
        )
    except pynvml.NVMLError as error:
        return Missing(f"NVIDIA's driver does not answer ({error}); restart the machine or install the driver again")
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> Gpu:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(name=pynvml.nvmlDeviceGetName(handle), architecture=major * 10 + minor)
